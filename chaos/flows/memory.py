import time

from main.registry import flow
from main.run import Run

PIECE = 16 * 1024 * 1024
# Far beyond the ceiling of a child (CPU_MEMORY_MB, see world.py), and no harm to the machine without one.
MOST = 1536 * 1024 * 1024


@flow(public=True, kind="cpu", steps=1)
def memory_flow(run: Run, tag: str, seconds: float) -> int:
    """Take more memory than there is for it."""

    def take() -> int:
        taken: list[bytes] = []
        while len(taken) * PIECE < MOST:
            taken.append(b"\1" * PIECE)
            time.sleep(0.01)
        return len(taken)

    return run.step("Take memory", take)
