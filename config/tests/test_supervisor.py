"""The children of `manage.py dev`."""

import asyncio
from pathlib import Path

from config.supervisor import Child


def test_the_last_line_is_shown_also_without_an_end(empty_dir: Path) -> None:
    empty_dir.mkdir()
    said: list[str] = []
    child = Child(["python", "-c", "print('first\\nlast', end='')"], empty_dir, said.append)
    assert asyncio.run(child.run()) == 0
    assert said == ["first", "last"]
