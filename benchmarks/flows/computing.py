from main.registry import flow
from main.run import Run


@flow(public=True, kind="cpu", steps=1)
def computing_flow(run: Run) -> int:
    """Compute for a moment, in a worker for computing."""
    total: int = run.step("Compute", sum, range(1000))
    return total
