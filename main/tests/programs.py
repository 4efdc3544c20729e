"""Programs on the PATH. Without one its tests are skipped, or fail where REQUIRE_PROGRAMS=1."""

import os
import shutil
from typing import NoReturn

import pytest


def program(*names: str) -> str:
    """Return where the first of them is that there is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        cannot(f"There is no {names[0]} on PATH.")
    return found


def cannot(reason: str) -> NoReturn:
    """End a test that lacks what it needs from outside."""
    if os.environ.get("REQUIRE_PROGRAMS") == "1":
        pytest.fail(f"REQUIRE_PROGRAMS=1, and: {reason}")
    pytest.skip(reason)
