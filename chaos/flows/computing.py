import time

from chaos.asking import RETRIES, ask_and_log, told
from main.registry import flow
from main.run import Run

# Seconds of the processor that a step takes, beside its waiting: there are few cores, and many processes.
COMPUTED = 0.1


@flow(public=True, kind="cpu", steps=4, step_retries=RETRIES)
def computing_flow(run: Run, tag: str, seconds: float) -> dict[str, object]:
    """Compute, in a worker for computing."""

    def compute(name: str) -> str:
        until = time.process_time() + COMPUTED
        while time.process_time() < until:
            sum(range(10_000))
        return ask_and_log(run, name, seconds / 4)

    names = [f"Compute {number}" for number in range(1, 5)]
    return told(run, [run.step(name, lambda name=name: compute(name)) for name in names])
