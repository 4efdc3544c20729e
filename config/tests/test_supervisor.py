"""The children of `manage.py dev`."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from config import supervisor
from config.supervisor import Child


def test_the_last_line_is_shown_also_without_an_end(empty_dir: Path) -> None:
    empty_dir.mkdir()
    said: list[str] = []
    child = Child(["python", "-c", "print('first\\nlast', end='')"], empty_dir, said.append)
    assert asyncio.run(child.run()) == 0
    assert said == ["first", "last"]


def test_a_worker_that_asks_to_be_started_anew_is(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "INFANCY", 0.0)  # it has worked for a while
    empty_dir.mkdir()
    said: list[str] = []
    child = Child(["python", "-c", "print('working'); exit(1)"], empty_dir, said.append)

    async def watch() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(child.keep(), 5)

    asyncio.run(watch())
    assert said[:3] == ["working", "Ended unexpectedly (exit code 1); it starts again in 0.5 s.", "working"]
