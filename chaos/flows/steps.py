from chaos.asking import RETRIES, ask, told
from main.registry import flow
from main.run import Run


@flow(public=True, steps=6, step_retries=RETRIES)
def steps_flow(run: Run, tag: str, seconds: float) -> dict[str, object]:
    """Do one step after the other."""
    names = [f"Step {number}" for number in range(1, 7)]
    return told(run, [run.step(name, lambda name=name: ask(run, name, seconds / 6)) for name in names])
