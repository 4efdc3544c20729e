import time

from main.registry import flow
from main.run import Run

# Seconds that each of the three steps sleeps: 1.5 s in all.
PAUSES = (0.5, 0.5, 0.5)


@flow(public=True, steps=len(PAUSES))
def sleeping_flow(run: Run) -> str:
    """Sleep for 1.5 s, in steps."""
    for number, pause in enumerate(PAUSES, start=1):
        run.step(f"Sleep {number}", time.sleep, pause)
    return "done"
