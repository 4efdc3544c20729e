"""The product's own processes, each under a guard, and a keeper for each that starts again what ended.

They are called as config/processes.py says, two of each: as several machines would.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.product import PROJECT
from config import embedded
from config.processes import commands

# Seconds that a process gets to end when the run is over, and before one that ended starts again.
STOP_PATIENCE, PAUSE = 6.0, 0.3
# Seconds to wait for something that should take moments.
PATIENCE = 30.0


@dataclass
class Process:
    """One process of the product. `started` counts how often.

    `environment` is that of its next start, `variables` are for it alone and not for its guard.
    """

    name: str
    command: list[str]
    local_dir: Path
    log: Path
    environment: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    started: int = 0
    guard: asyncio.subprocess.Process | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_frozen: bool = False

    @property
    def kind(self) -> str:
        """web, io, cpu or notifications."""
        return self.name.partition("-")[0]

    async def keep(self) -> None:
        """Run it, and again whenever it ended; end it when this is cancelled."""
        try:
            while True:
                await self._start()
                assert self.guard
                await self.guard.wait()
                self.ended.set()
                await asyncio.sleep(PAUSE)
        finally:
            await self._end()

    async def _start(self) -> None:
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        command = ["env", *variables, sys.executable, *self.command[1:]]
        command = embedded.guarded(command, self.local_dir, grace=STOP_PATIENCE)
        with self.log.open("ab") as log:
            self.guard = await asyncio.create_subprocess_exec(
                *command,
                cwd=PROJECT,
                env=self.environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is ours alone
            )
        self.started += 1
        self.ended.clear()

    async def _end(self) -> None:
        if self.guard and self.guard.stdin:
            self.resume()
            self.guard.stdin.close()
            await self.guard.wait()

    @property
    def pid(self) -> int | None:
        """The process itself, below its guard; None while there is none."""
        if self.guard is None or self.guard.returncode is not None:
            return None
        guard = self.guard.pid
        try:
            children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def children(self) -> list[int]:
        """Return its own child processes: those that run flows, or answer requests."""
        pid = self.pid
        try:
            return [child.pid for child in psutil.Process(pid).children()] if pid else []
        except psutil.NoSuchProcess:
            return []

    async def running(self) -> int:
        """Return its pid as soon as it has one."""
        async with asyncio.timeout(PATIENCE):
            while (pid := self.pid) is None:
                await asyncio.sleep(0.02)
        return pid

    async def send(self, number: signal.Signals) -> float:
        """Signal it, alone or with its children as `kill` does, and return the seconds until it was gone."""
        pid, began = await self.running(), time.monotonic()
        self.ended.clear()
        if number is signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
        async with asyncio.timeout(PATIENCE):
            await self.ended.wait()
        return time.monotonic() - began

    def freeze(self) -> None:
        """Stop the process and its children, as a machine that hangs would."""
        self.is_frozen = True
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self.is_frozen = False
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: signal.Signals) -> None:
        if pid := self.pid:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)


@dataclass(frozen=True)
class Shape:
    """How many processes of each kind, and how much each worker runs at once."""

    web: int = 2
    io: int = 2
    cpu: int = 2
    notifications: int = 2
    threads: int = 12
    children: int = 3

    @property
    def workers(self) -> int:
        """How many processes run flows, or send mails."""
        return self.io + self.cpu * self.children + self.notifications


def command_lines(shape: Shape, ports: list[int]) -> dict[str, list[str]]:
    """Return the command line of each process by name: web-1, io-1, cpu-1, notifications-1 and so on."""
    lines = {}
    for number, port in enumerate(ports, start=1):
        called = commands(bind=f"127.0.0.1:{port}", web=1, io=shape.threads, cpu=shape.children)
        lines[f"web-{number}"] = called["web"]
    for kind, count in (("io", shape.io), ("cpu", shape.cpu), ("notifications", shape.notifications)):
        for number in range(1, count + 1):
            # On machines of their own they would have names of their own.
            line = [word.replace("@%h", f"-{number}@%h") for word in called[f"worker-{kind}"]]
            lines[f"{kind}-{number}"] = line
    return lines
