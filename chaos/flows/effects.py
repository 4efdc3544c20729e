from chaos.asking import RETRIES, apply, ask, told
from main.registry import flow
from main.run import Run


@flow(public=True, steps=5, step_retries=RETRIES)
def effects_flow(run: Run, tag: str, seconds: float) -> dict[str, object]:
    """Change the world outside three times, and look in between."""

    def change(name: str) -> str:
        return run.effect(name, lambda key: apply(run, name, key, seconds / 5))

    def look(name: str) -> str:
        return run.step(name, lambda: ask(run, name, seconds / 5))

    return told(run, [look("Look"), change("Pay"), change("Ship"), look("Look on"), change("Write")])
