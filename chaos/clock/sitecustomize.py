"""Loaded by a worker whose clock is wrong, before anything else: its PYTHONPATH names this folder.

libfaketime 0.9 breaks clock_nanosleep() where it leaves the monotonic clock alone, and with it `time.sleep`. Our
clocks are wrong; our sleep is not.
"""

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex) -> None:
    select.select((), (), (), float(seconds))


time.sleep = sleep
