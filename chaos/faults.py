"""The faults: what each kind does to a world, and how it is undone."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from redis.asyncio import Redis

from chaos.client import Watching
from chaos.processes import Process
from chaos.proxy import Mode
from chaos.records import Held
from chaos.schedule import Kind, Planned
from chaos.world import World
from config import embedded

# Seconds to wait for a worker that may be harmed, and that a signalled process gets before it is killed.
VICTIM_PATIENCE, END_PATIENCE = 25.0, 10.0
# Seconds for which a harm of the mail server goes on until it meets a mail.
MAIL_PATIENCE = 10.0
# A third crash would end an execution as poisonous, and rightly.
MOST_CRASHES = 1
# Where Debian's package libfaketime has it.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("libfaketimeMT.so.1"))
CLOCK = {
    "LD_PRELOAD": str(FAKETIME),
    "DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "PYTHONPATH": str(Path(__file__).with_name("clock")),
}


class NoVictim(Exception):
    """There is nothing that this fault may harm now; the message says why."""


@dataclass
class Fault:
    """A fault that happens, or happened. Times are `time.time()`; `until` is when all of it was undone."""

    planned: Planned
    began: float = 0.0
    until: float = 0.0
    target: str = ""
    touched: list[Held] = field(default_factory=list)
    # The executions whose mails were under way, or waited.
    mails: set[str] = field(default_factory=set)
    # Whose connections broke with a web server.
    watchers: list[Watching] = field(default_factory=list)
    # Seconds that a process took to end that was asked to.
    stopped_in: float | None = None
    skipped: str = ""
    # Starts an execution of a flow, watched like any other; set by the play.
    start: Callable[[str], Awaitable[None]] | None = None
    # Called when the harm is done: the play says so, and measures.
    struck: Callable[["Fault"], None] = lambda fault: None

    @property
    def kind(self) -> Kind:
        return self.planned.kind

    def strike(self, target: str, touched: list[Held]) -> None:
        """Note what is harmed from now on."""
        self.began, self.target, self.touched = time.time(), target, touched
        self.struck(self)

    async def last(self) -> None:
        """Wait until as much time has gone since it struck as was planned."""
        await asyncio.sleep(max(0.0, self.began + self.planned.lasts - time.time()))


Action = Callable[[World, Fault], Awaitable[None]]
ACTIONS: dict[Kind, Action] = {}


def kind(
    name: str,
    resources: str,
    action: Action,
    *,
    lasts: float,
    lasts_long: float | None = None,
    costs_attempt: bool = False,
    limit: float | None = None,
) -> Kind:
    made = Kind(name, frozenset(resources.split()), lasts, lasts_long or lasts, costs_attempt, limit)
    ACTIONS[made] = action
    return made


async def happen(world: World, fault: Fault) -> None:
    """Let a fault happen, and undo it."""
    try:
        await ACTIONS[fault.kind](world, fault)
    except NoVictim as reason:
        fault.skipped = str(reason)
    except ProcessLookupError:
        fault.skipped = "the process ended by itself just then"
    fault.until = time.time()


# Workers


async def victim(world: World, kind: str) -> tuple[Process, list[Held]]:
    """Return the worker that holds most of those that may be harmed now, and what; wait for one that works."""
    until = time.monotonic() + VICTIM_PATIENCE
    while time.monotonic() < until:
        held = await world.records.running()
        able = [each for each in candidates(world, kind, held) if each[1]]
        if able:
            return max(able, key=lambda each: len(each[1]))
        await asyncio.sleep(0.2)
    raise NoVictim(f"no {kind} worker had work that may be harmed")


def candidates(world: World, kind: str, held: list[Held]) -> Iterator[tuple[Process, list[Held]]]:
    for process in world.of_kind(kind):
        if (pid := process.pid) and not process.is_frozen:
            its = [each for each in held if each.is_held_by(pid)]
            if all(each.crashes <= MOST_CRASHES for each in its):
                yield process, its


async def kill(kind: str, world: World, fault: Fault) -> None:
    process, held = await victim(world, kind)
    fault.strike(process.name, held)
    await process.send(signal.SIGKILL)


async def stop(kind: str, world: World, fault: Fault) -> None:
    process, held = await victim(world, kind)
    fault.strike(process.name, held)
    fault.stopped_in = await ended(process)


async def ended(process: Process) -> float:
    """Ask a process to end and return the seconds it took; one that does not is killed."""
    try:
        async with asyncio.timeout(END_PATIENCE):
            return await process.send(signal.SIGTERM)
    except TimeoutError:
        await process.send(signal.SIGKILL)
        return END_PATIENCE


async def harm_child(number: signal.Signals, world: World, fault: Fault) -> None:
    """Signal one child process of a cpu worker, one that runs something."""
    process, held = await victim(world, "cpu")
    children = {child for child in map(process_of, held) if child in process.children()}
    if not children:
        raise NoVictim(f"no child of {process.name} was at work")
    child = min(children)
    fault.strike(f"{process.name}, a child", [each for each in held if process_of(each) == child])
    os.kill(child, number)


def process_of(held: Held) -> int:
    """Return the process that runs an execution."""
    return int(held.worker.rpartition("/")[2])


async def freeze(kind: str, world: World, fault: Fault) -> None:
    process, held = await victim(world, kind)
    process.freeze()
    try:
        fault.strike(process.name, held)
        await fault.last()
    finally:
        process.resume()


async def turn_clock(kind: str, offset: str, world: World, fault: Fault) -> None:
    """Let a worker run for a while whose clock is wrong; then start it again with a right one."""
    if not FAKETIME.exists():
        raise NoVictim(f"{FAKETIME} is not there: apt-get install libfaketime")
    process, held = await victim(world, kind)
    process.variables = {**CLOCK, "FAKETIME": offset}
    try:
        fault.strike(f"{process.name} {offset}", held)
        fault.stopped_in = await ended(process)
        await process.running()
        await fault.last()
    finally:
        process.variables = {}
        await ended(process)


async def deploy(world: World, fault: Fault) -> None:
    """Replace one process after the other by one of a new version; a web server only when the other answers."""
    world.version += 1
    for process in world.processes.values():
        process.environment["CHAOS_VERSION"] = str(world.version)
    fault.strike(f"version {world.version}", await world.records.running())
    for web in world.of_kind("web"):
        await ended(web)
        while not await world.client.are_healthy():
            await asyncio.sleep(0.2)
    workers = [process for process in world.processes.values() if process.kind != "web"]
    fault.stopped_in = max([await ended(process) for process in workers])


async def exhaust_memory(world: World, fault: Fault) -> None:
    """Start an execution that takes more memory than there is for it."""
    assert fault.start
    fault.strike("a flow", await world.records.running())
    await fault.start("memory_flow")
    await fault.last()


# Web servers


async def kill_web(world: World, fault: Fault) -> None:
    web = next_web(world, fault)
    await web.send(signal.SIGKILL)


async def stop_web(world: World, fault: Fault) -> None:
    web = next_web(world, fault)
    fault.stopped_in = await ended(web)


async def kill_web_children(world: World, fault: Fault) -> None:
    web = next_web(world, fault)
    for child in web.children():
        os.kill(child, signal.SIGKILL)


def next_web(world: World, fault: Fault) -> Process:
    """Take one or the other web server by the time of the fault; who watches it is for the play to know."""
    webs = world.of_kind("web")
    web = webs[int(fault.planned.at) % len(webs)]
    if web.pid is None:
        raise NoVictim(f"{web.name} is not running")
    fault.strike(web.name, [])
    return web


# Connections


@asynccontextmanager
async def struck_all(world: World, fault: Fault, target: str) -> AsyncIterator[None]:
    """A harm that everybody feels: touched is what runs at its begin."""
    held = await world.records.running()
    fault.strike(target, held)
    yield
    await fault.last()


async def harm_connection(name: str, mode: Mode, world: World, fault: Fault) -> None:
    proxy = world.proxies[name]
    try:
        async with struck_all(world, fault, f"{name} {mode.value}"):
            proxy.become(mode)
    finally:
        proxy.become(Mode.PASS)


# Databases


async def end_server(name: str, number: signal.Signals, world: World, fault: Fault) -> None:
    """End a database, and start it again after a while."""
    async with struck_all(world, fault, name):
        os.kill(server_pid(world, name), number)
    await world.revive(name)


async def hang_redis(world: World, fault: Fault) -> None:
    pid = server_pid(world, "redis")
    try:
        async with struck_all(world, fault, "redis"):
            os.kill(pid, signal.SIGSTOP)
    finally:
        os.kill(pid, signal.SIGCONT)


def server_pid(world: World, name: str) -> int:
    """Return the process of a database, below its guard."""
    guard = world.server(name).process
    assert guard
    return int(Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()[0])


async def flush_redis(world: World, fault: Fault) -> None:
    async with struck_all(world, fault, "redis"), redis(world) as client:
        await client.flushall()


async def fill_redis(world: World, fault: Fault) -> None:
    """Let Redis refuse every write, as one does that is full and must not evict."""
    async with redis(world) as client:
        try:
            async with struck_all(world, fault, "redis"):
                await client.config_set("maxmemory", "1")
        finally:
            await client.config_set("maxmemory", "0")


def redis(world: World) -> "Redis":
    return Redis(unix_socket_path=str(embedded.redis_socket(world.place.local_dir)))


# The provider


@contextmanager
def set_flag(world: World, name: str) -> Iterator[None]:
    setattr(world.provider, name, True)
    try:
        yield
    finally:
        setattr(world.provider, name, False)


async def harm_provider(flag: str, world: World, fault: Fault) -> None:
    with set_flag(world, flag):
        async with struck_all(world, fault, f"provider {flag}"):
            pass


# Mail


async def harm_mail(mode: Mode, world: World, fault: Fault) -> None:
    """Let nobody reach the mail server; touched is what waits at the end of it."""
    proxy = world.proxies["mail"]
    proxy.become(mode)
    try:
        fault.strike(f"mail {mode.value}", [])
        await fault.last()
        fault.mails = await mails_since(world, fault.began)
    finally:
        proxy.become(Mode.PASS)


async def harm_mail_server(flag: str, world: World, fault: Fault) -> None:
    with mail_is(world, flag):
        fault.strike(f"mail {flag}", [])
        await fault.last()
        fault.mails = await mails_since(world, fault.began)


async def mails_since(world: World, at: float) -> set[str]:
    """Return the executions whose mails came since then, or are still to be sent; wait a while for one."""
    until = time.monotonic() + MAIL_PATIENCE
    while not (mails := await mails_now(world, at)) and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return mails


async def mails_now(world: World, at: float) -> set[str]:
    return {mail.execution for mail in world.mail.mails if mail.at >= at} | await world.records.unsent()


@contextmanager
def mail_is(world: World, flag: str) -> Iterator[None]:
    setattr(world.mail, flag, True)
    try:
        yield
    finally:
        setattr(world.mail, flag, False)


async def kill_sender(flag: str, world: World, fault: Fault) -> None:
    """Kill a worker that has claimed a mail: before the server takes it, or before it says that it has."""
    with mail_is(world, flag):
        process = await sender(world, flag, fault)
        await process.send(signal.SIGKILL)


async def stop_sender(world: World, fault: Fault) -> None:
    with mail_is(world, "holding"):
        process = await sender(world, "holding", fault)
        fault.stopped_in = await ended(process)


async def freeze_sender(world: World, fault: Fault) -> None:
    """Freeze a worker that has claimed a mail until another one has sent it; when it wakes up it sends it as well."""
    with mail_is(world, "holding"):
        process = await sender(world, "holding", fault)
        process.freeze()
    try:
        await fault.last()
    finally:
        process.resume()


async def sender(world: World, flag: str, fault: Fault) -> Process:
    """Wait for a worker that is sending, note that it is struck, and return it."""
    until = time.monotonic() + VICTIM_PATIENCE
    while time.monotonic() < until:
        held = [each for each in await world.records.sending() if each.attempt == 1]  # no fault had it before
        if flag == "silent":
            taken = {mail.execution for mail in world.mail.mails}
            held = [each for each in held if each.id in taken]
        for process in world.of_kind("notifications"):
            pid = process.pid
            if (
                pid
                and not process.is_frozen
                and (mails := {each.id for each in held if each.is_held_by(pid)})
            ):
                fault.mails = mails
                fault.strike(process.name, [])
                return process
        await asyncio.sleep(0.05)
    raise NoVictim("no mail was under way")


# Seconds in which what a killed worker held has to go on, and what one handed back that was told to stop: the
# latter is less than a lease takes to run out.
RECOVERY, TAKEN_UP = 20.0, 10.0
# What a worker of notifications is harmed with: it has to have a mail under way.
MAILER = "notifications mail"
# Seconds for which the mail of a killed one is held: its server has to be well until it is sent.
HELD = 18.0

kind("kill -9 io worker", "io", partial(kill, "io"), lasts=3, costs_attempt=True, limit=RECOVERY)
kind("kill -9 cpu worker", "cpu", partial(kill, "cpu"), lasts=3, costs_attempt=True, limit=RECOVERY)
kind(
    "kill -9 cpu child",
    "cpu",
    partial(harm_child, signal.SIGKILL),
    lasts=1,
    costs_attempt=True,
    limit=RECOVERY,
)
kind("kill -9 web", "web", kill_web, lasts=4)
kind("kill -9 web child", "web", kill_web_children, lasts=4)
kind("SIGTERM io worker", "io", partial(stop, "io"), lasts=6, costs_attempt=True, limit=TAKEN_UP)
kind("SIGTERM cpu worker", "cpu", partial(stop, "cpu"), lasts=6, costs_attempt=True, limit=TAKEN_UP)
kind("SIGTERM cpu child", "cpu", partial(harm_child, signal.SIGTERM), lasts=1, costs_attempt=True)
kind("SIGTERM web", "web", stop_web, lasts=5)
kind(
    "frozen io worker",
    "io",
    partial(freeze, "io"),
    lasts=20,
    lasts_long=60,
    costs_attempt=True,
)
kind(
    "frozen cpu worker",
    "cpu",
    partial(freeze, "cpu"),
    lasts=20,
    lasts_long=60,
    costs_attempt=True,
)
kind("clock 10 min ahead", "io", partial(turn_clock, "io", "+600s"), lasts=14, lasts_long=30)
kind("clock 10 min behind", "cpu", partial(turn_clock, "cpu", "-600s"), lasts=14, lasts_long=30)
kind("new version", "io cpu web notifications", deploy, lasts=22)
kind("out of memory", "memory", exhaust_memory, lasts=3)
kind("redis killed", "redis", partial(end_server, "redis", signal.SIGKILL), lasts=4)
kind("redis restarted", "redis", partial(end_server, "redis", signal.SIGTERM), lasts=1)
kind("redis emptied", "redis", flush_redis, lasts=0.5)
kind("redis hung", "redis", hang_redis, lasts=7, lasts_long=15)
kind("redis cut off", "redis", partial(harm_connection, "redis", Mode.CUT), lasts=6, lasts_long=12)
kind("redis slow", "redis", partial(harm_connection, "redis", Mode.SLOW), lasts=7, lasts_long=12)
kind("redis full", "redis", fill_redis, lasts=5, lasts_long=12)
kind("postgres restarted", "postgres", partial(end_server, "postgres", signal.SIGINT), lasts=1)
kind("postgres crashed", "postgres", partial(end_server, "postgres", signal.SIGQUIT), lasts=2)
kind("postgres cut off", "postgres", partial(harm_connection, "postgres", Mode.CUT), lasts=5, lasts_long=12)
kind("postgres slow", "postgres", partial(harm_connection, "postgres", Mode.SLOW), lasts=7, lasts_long=12)
kind("postgres hung", "postgres", partial(harm_connection, "postgres", Mode.HUNG), lasts=7, lasts_long=20)
kind("provider down", "provider", partial(harm_connection, "provider", Mode.CUT), lasts=6, lasts_long=12)
kind("provider slow", "provider", partial(harm_provider, "slow"), lasts=6, lasts_long=12)
kind("provider truncating", "provider", partial(harm_provider, "truncating"), lasts=6, lasts_long=12)
kind("mail down", "mail", partial(harm_mail, Mode.CUT), lasts=6, lasts_long=12)
kind("mail slow", "mail", partial(harm_mail_server, "slow"), lasts=7, lasts_long=12)
kind("mail dropping", "mail", partial(harm_mail_server, "dropping"), lasts=6, lasts_long=12)
kind(
    "kill -9 mailer, claimed",
    MAILER,
    partial(kill_sender, "holding"),
    lasts=HELD,
    costs_attempt=True,
    limit=RECOVERY,
)
kind(
    "kill -9 mailer, sending",
    MAILER,
    partial(kill_sender, "silent"),
    lasts=HELD,
    costs_attempt=True,
    limit=RECOVERY,
)
kind(
    "frozen mailer",
    MAILER,
    freeze_sender,
    lasts=20,
    lasts_long=60,
    costs_attempt=True,
)
kind("SIGTERM mailer", MAILER, stop_sender, lasts=6, costs_attempt=True, limit=TAKEN_UP)

KINDS = tuple(ACTIONS)


def kind_named(name: str) -> Kind:
    return next(each for each in KINDS if each.name == name)
