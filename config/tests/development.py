"""A real `manage.py dev` in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from django.conf import settings

from config.tests.waiting import wait_until


class Development:
    """`manage.py dev` on a folder, with a free port, from its start to the end of a `with` block."""

    def __init__(self, local_dir: Path, **environment: str) -> None:
        self.local_dir = local_dir
        self.environment = os.environ | {"LOCAL_DIR": str(local_dir), "PORT": "0"} | environment
        del self.environment["DEVELOPMENT"]
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = self.start("dev")
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, settings.BASE_DIR / "manage.py", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def manage(self, *arguments: str) -> tuple[int, str]:
        """Run another manage.py command beside it; return its exit code and output."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=60)
            return process.returncode, output

    def read(self) -> None:
        assert self.process.stdout
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 30.0) -> re.Match[str]:
        """Return what the output says, as soon as it does."""
        try:
            wait_until(lambda: re.search(pattern, self.output), seconds)
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not in:\n{self.output}") from None
        found = re.search(pattern, self.output)
        assert found
        return found

    def wait_until_ready(self) -> str:
        """Return its address."""
        return self.wait_for(r"Ready on (http://127\.0\.0\.1:\d+)/\n")[1]

    def wait_until_workers_ask(self) -> None:
        wait_until(lambda: self.manage("doctor")[0] == 0, 30)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.wait_until_ready() + path)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal; return the seconds until it had ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        self.reader.join()
        assert self.process.stdout
        self.process.stdout.close()
        return time.monotonic() - began
