from concurrent.futures import ThreadPoolExecutor

from chaos.asking import RETRIES, ask_and_log, told
from main.registry import flow
from main.run import Run


@flow(public=True, steps=5, step_retries=RETRIES)
def branches_flow(run: Run, tag: str, seconds: float) -> dict[str, object]:
    """Do three steps at once, between one before and one after."""

    def do(name: str, share: float) -> str:
        return run.step(name, lambda: ask_and_log(run, name, seconds * share))

    first = do("Before", 0.25)
    branches = {"Left": 0.3, "Middle": 0.5, "Right": 0.4}
    with ThreadPoolExecutor(len(branches)) as pool:
        marks = list(pool.map(do, branches, branches.values()))
    return told(run, [first, *marks, do("After", 0.25)])
