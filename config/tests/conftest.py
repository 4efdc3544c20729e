import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import embedded


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    """A LOCAL_DIR that is not there yet; nothing is left of it afterwards: no file, process or socket."""
    yield from temporary_local_dir()


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    """The same for all tests of a module."""
    yield from temporary_local_dir()


def temporary_local_dir() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="ctm-", dir="/tmp")).resolve()
    local_dir = parent / "local"
    yield local_dir
    if local_dir.exists():
        with embedded.owned(local_dir):  # waits for what is left
            pass
    shutil.rmtree(parent)
