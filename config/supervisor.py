"""What `manage.py dev` does while it runs: keeps the processes alive, and restarts them when code changes."""

import asyncio
import importlib.util
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import watchfiles

from config.embedded import EmbeddedError, guarded
from config.servers import Servers

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLOURS = (36, 33, 35, 32)
# Lines come as they are written; Celery's long advice against root is for servers.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore:You're running the worker with superuser"}
# Seconds that a child gets to end: a little more than a worker needs to hand back what it runs (GRACE in
# main/tasks.py). The databases then get servers.STOP_PATIENCE; together that stays below 5 s.
GRACE = 3.0
# A child that ends with an error in this many seconds has not got going: it waits for better code.
INFANCY = 15.0
# What a web server that does not start answers.
NOT_STARTED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\nThe web server does not start. The terminal of `make run` says why; it starts again "
    b"when a file changes.\n"
)
# Seconds before a child that crashed starts again, doubling from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0


class Supervisor:
    """The children of one `manage.py dev`, until a signal comes.

    The first child is the web server. It inherits the listener, which stays open while the server restarts.
    """

    def __init__(
        self,
        commands: dict[str, list[str]],
        listener: socket.socket,
        servers: Servers,
        local_dir: Path,
        watched: "Watched",
    ) -> None:
        self.children = [
            Child(command, local_dir, labelled(name, colour, max(map(len, commands))))
            for (name, command), colour in zip(commands.items(), COLOURS, strict=False)
        ]
        self.children[0].listener = listener
        self.listener = listener
        self.servers = servers
        self.local_dir = local_dir
        self.watched = watched

    async def run(self) -> None:
        """Say when and where the web server answers; return after a signal of STOPS."""
        duties = [child.keep() for child in self.children]
        duties += [greet(*reachable(self.listener)), self.revive_servers()]
        duties += [self.restart_on_change(self.watched.trees, recursive=True)]
        duties += [self.restart_on_change(self.watched.folders, recursive=False)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(duty) for duty in duties]
            on_stop(lambda: [task.cancel() for task in tasks])

    async def restart_on_change(self, folders: list[Path], *, recursive: bool) -> None:
        try:
            async for changed in changes(folders, recursive, self.local_dir):
                self.restart(changed)
        except (OSError, RuntimeError) as error:  # such as too many watches for this machine
            tell(f"Changes of code are not seen: {error}")

    def restart(self, changed: list[Path]) -> None:
        tell(f"Restarting: {changed[0].name} changed.")
        code_changed = any(path.suffix == ".py" for path in changed)
        for child in self.children if code_changed else self.children[:1]:
            child.restart()

    async def revive_servers(self) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                for name in self.servers.revive():
                    tell(f"The embedded {name} ended unexpectedly; it starts again.")
            except EmbeddedError as error:
                tell(str(error))


class Child:
    """A child process that starts again when it is told to, or when it crashed."""

    def __init__(self, command: list[str], local_dir: Path, say: Callable[[str], None]) -> None:
        self.command = guarded([sys.executable, *command[1:]], local_dir, grace=GRACE)
        self.say = say
        self.told_to_restart = asyncio.Event()
        # What it inherits, and what is answered on while it does not run.
        self.listener: socket.socket | None = None
        self.lifeline: asyncio.StreamWriter | None = None

    async def keep(self) -> None:
        """Run it for ever; when this is cancelled, end it."""
        pause = FIRST_PAUSE
        while True:
            self.told_to_restart.clear()
            began = time.monotonic()
            code = await self.run()
            lived = time.monotonic() - began
            if self.told_to_restart.is_set():
                continue
            if 0 < code < 128 and lived < INFANCY:
                self.say("Ended with an error; it starts again when a file changes.")
                async with answering(self.listener) if self.listener else nullcontext():
                    await self.told_to_restart.wait()
            else:
                pause = FIRST_PAUSE if lived > INFANCY else pause
                self.say(f"Ended unexpectedly (exit code {code}); it starts again in {pause:g} s.")
                await self.wait_for_restart(pause)
                pause = min(2 * pause, LAST_PAUSE)

    def restart(self) -> None:
        self.told_to_restart.set()
        self.end()

    async def run(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # or a Ctrl-C would reach it before us
            pass_fds=(self.listener.fileno(),) if self.listener else (),
            env=os.environ | ENVIRONMENT,
        )
        self.lifeline = process.stdin
        try:
            await self.pass_on(process.stdout)
        except asyncio.CancelledError:
            self.end()
            await self.pass_on(process.stdout)
            raise
        finally:
            code = await process.wait()
        return code

    async def pass_on(self, output: asyncio.StreamReader | None) -> None:
        rest = b""
        try:
            while output and (chunk := await output.read(65536)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.say(line.decode(errors="replace"))
        finally:
            if rest:  # the last line may have no end
                self.say(rest.decode(errors="replace"))

    async def wait_for_restart(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.told_to_restart.wait(), seconds)

    def end(self) -> None:
        if self.lifeline:
            self.lifeline.close()


def on_stop(call: Callable[[], object]) -> None:
    """Call this at the first signal of STOPS; the others are ignored, since the end takes seconds at most."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in STOPS:
            loop.add_signal_handler(number, lambda: None)
        call()

    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stop)


def labelled(name: str, colour: int, width: int) -> Callable[[str], None]:
    """Return a function that prints a line with the name before it."""
    label = f"{name:{width}} |"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        label = f"\033[{colour}m{label}\033[0m"
    return lambda line: tell(f"{label} {line}")


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def answering(listener: socket.socket) -> AsyncIterator[None]:
    """Answer for a web server that does not start: who connects would wait for as long as nobody repairs it."""
    server = await asyncio.start_server(say_why, sock=listener.dup())
    try:
        yield
    finally:
        server.close()


async def say_why(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        async with asyncio.timeout(1):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(NOT_STARTED)
        await writer.drain()
    writer.close()


async def greet(host: str, port: int) -> None:
    while not await answers(host, port):
        await asyncio.sleep(0.05)
    tell(f"Ready on http://{f'[{host}]' if ':' in host else host}:{port}/")


async def answers(host: str, port: int) -> bool:
    """Ask the web server; where it still starts, its answer is waited for."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, port)
            with closing(writer):
                writer.write(b"GET /health/ HTTP/1.0\r\n\r\n")
                status = (await reader.readline()).split()[1:2]
                return bool(status) and int(status[0]) < 500
    except OSError:  # TimeoutError is one
        return False


def reachable(listener: socket.socket) -> tuple[str, int]:
    """Return an address to connect to, also where it listens on all of them."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


# What is watched


@dataclass(frozen=True)
class Watched:
    """Folders: those watched with all that is below them, and those watched alone."""

    trees: list[Path]
    folders: list[Path]


async def changes(folders: list[Path], recursive: bool, local_dir: Path) -> AsyncIterator[list[Path]]:
    """Give the Python files and templates that changed, as often as some did."""

    def matters(_: watchfiles.Change, name: str) -> bool:
        path = Path(name)
        is_test = path.name.startswith("test_") or path.name == "conftest.py"
        return path.suffix in {".py", ".html"} and not is_test and not path.is_relative_to(local_dir)

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it would log every change
    if folders:
        async for found in watchfiles.awatch(*folders, watch_filter=matters, recursive=recursive):
            yield sorted({Path(path) for _, path in found})


def watched(project: Path, modules: list[str]) -> Watched:
    """Return the project's folders, hidden ones and virtual environments excepted, and where modules are."""
    trees = [
        path
        for path in project.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not (path / "pyvenv.cfg").exists()
    ]
    folders = []
    for name in modules:
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec and spec.submodule_search_locations:
                trees += map(Path, spec.submodule_search_locations)
            elif spec and spec.origin:
                folders.append(Path(spec.origin).parent)
    return Watched(trees, folders)
