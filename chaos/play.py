"""One run: executions are started, watched and cancelled while faults happen; then everything is looked at."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from chaos.client import Asked, Client, Refused, Watching, watching
from chaos.faults import Fault, happen
from chaos.mail_server import Mail
from chaos.provider import Call
from chaos.records import Note, Outgoing, Row, StepRow
from chaos.schedule import Planned
from chaos.witness import Snapshot
from chaos.world import World

FLOWS = (
    "steps_flow",
    "computing_flow",
    "branches_flow",
    "effects_flow",
    "computing_flow",
    "stream_flow",
    "drawn_flow",
)
# How many executions run at once, about: there are two cores for all of it.
AT_ONCE = 8
# Seconds of work in a flow on average, at least and at most, and how far one may be from it.
LEAST_WORK, MOST_WORK, SPREAD = 4.0, 11.0, 0.3
# The first execution of all.
FIRST = "steps_flow"
# One in so many is cancelled, after some seconds of these.
CANCELLED_IN = 10
CANCEL_AFTER = 1.0, 6.0
# Seconds for watchers to be shown an end that the database has, and for mails to be sent when all has ended: a server
# that was down for long is tried again after a pause about as long.
WATCH_PATIENCE, MAIL_PATIENCE = 15.0, 45.0
# Of so many one is a visitor's, and one a person's who does not want a mail; the rest is theirs, with a mail.
ASKING_IN = 4


@dataclass(frozen=True)
class Start:
    """An execution to be: `at` in seconds from the begin of the run, `seconds` of work in its flow."""

    at: float
    flow: str
    tag: str
    seconds: float
    cancel_after: float | None = None
    # Whether who is signed in starts it, or a visitor; and whether they want to be told of the end by mail.
    is_signed_in: bool = False
    notify: bool = False


@dataclass
class Started:
    """An execution whose start was answered 200. `cancelled` says whether a cancel of ours was, too."""

    start: Start
    id: str
    watching: Watching
    is_cancel_asked: bool = False
    is_cancelled: bool = False
    # What somebody saw who came after all had ended.
    seen_later: Snapshot | None = None


@dataclass
class Facts:
    """Everything that is known at the end of a run."""

    started: list[Started] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unanswered: list[Start] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    outbox: list[Outgoing] = field(default_factory=list)


def starts(seed: int, count: int, seconds: float, flows: tuple[str, ...] = FLOWS) -> list[Start]:
    """Return executions at even distances over some seconds; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 — it has to be repeatable
    work = max(LEAST_WORK, min(AT_ONCE * seconds / count, MOST_WORK))
    return [
        Start(
            at=number * seconds / count,
            flow=flows[number % len(flows)],
            tag=f"{seed}-{number}",
            seconds=round(work * chance.uniform(1 - SPREAD, 1 + SPREAD), 1),
            cancel_after=chance.uniform(*CANCEL_AFTER) if chance.randrange(CANCELLED_IN) == 0 else None,
            is_signed_in=number % ASKING_IN > 0,
            notify=number % ASKING_IN > 1,
        )
        for number in range(count)
    ]


class Play:
    """A run in a world. `tell` is given a line for whoever looks on."""

    def __init__(self, world: World, tell: Callable[[str], None]) -> None:
        self.world = world
        self.facts = Facts()
        self._tell = tell
        self._began = time.monotonic()
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def play(self, executions: list[Start], planned: list[Planned], patience: float) -> Facts:
        """Let it all happen; wait some seconds at most for the executions to end; return what is known then."""
        self._began = time.monotonic()
        await self._start_now(FIRST)  # its answer sets the session of all that follow
        async with asyncio.TaskGroup() as group:
            for start in executions:
                group.create_task(self._run(start))
            for each in planned:
                group.create_task(self._happen(each))
        await self._wait_for_ends(patience)
        await self._look()
        return self.facts

    async def _run(self, start: Start) -> None:
        await self._wait_until(start.at)
        client = self._client(start)
        task_id = await client.start(start.flow, start.tag, start.seconds, notify=start.notify)
        if task_id is None:
            self.facts.unanswered.append(start)
            return
        log = self.world.place.logs / f"watcher-{task_id}.log"
        started = Started(start, task_id, watching(client, task_id, log))
        self.facts.started.append(started)
        self._watchers[task_id] = asyncio.create_task(started.watching.watch())
        if start.cancel_after is not None:
            await asyncio.sleep(start.cancel_after)
            started.is_cancel_asked = True
            started.is_cancelled = await client.cancel(task_id)

    def _client(self, start: Start) -> Client:
        return self.world.person if start.is_signed_in else self.world.client

    async def _happen(self, planned: Planned) -> None:
        await self._wait_until(planned.at)
        fault = Fault(planned, start=self._start_now, struck=self._struck)
        self.facts.faults.append(fault)
        await happen(self.world, fault)
        if fault.skipped:
            self._say(f"{fault.kind.name}: not done, {fault.skipped}")

    async def _start_now(self, flow: str) -> None:
        tag = f"{flow}-{len(self.facts.started)}-{time.monotonic_ns()}"
        await self._run(Start(0.0, flow, tag, seconds=1.0))

    def _struck(self, fault: Fault) -> None:
        if fault.kind.resources == {"web"}:
            fault.watchers = self._watchers_of(fault.target)
        touched = f"{len(fault.watchers)} watchers" if fault.watchers else f"{len(fault.touched)} executions"
        if fault.kind.is_of_mail:
            touched = f"{len(fault.mails)} mails" if fault.mails else "whatever is sent"
        self._say(f"{fault.kind.name:<22} {fault.target}: {touched}")

    def _watchers_of(self, web: str) -> list[Watching]:
        url = self.world.url(self.world.processes[web])
        watchings = [each.watching for each in self.facts.started]
        return [each for each in watchings if each.is_connected_to(url)]

    async def _wait_for_ends(self, patience: float) -> None:
        """Wait until everything has ended, and everybody who watches has been shown so."""
        self._say("all faults are over; waiting for what still runs")
        ids = {each.id for each in self.facts.started}
        until = time.monotonic() + patience
        while ids & await self.world.records.unended() and time.monotonic() < until:
            await asyncio.sleep(0.5)
        await self._wait_for_mails()
        stuck = ids & await self.world.records.unended()
        if told := [watcher for id_, watcher in self._watchers.items() if id_ not in stuck]:
            await asyncio.wait(told, timeout=WATCH_PATIENCE)
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    async def _wait_for_mails(self) -> None:
        until = time.monotonic() + MAIL_PATIENCE
        while await self.world.records.unsent() and time.monotonic() < until:
            await asyncio.sleep(0.5)

    async def _look(self) -> None:
        """Read everything, and let somebody come late to everything that was started."""
        self._say("everything has ended" if await self._has_ended() else "not everything has ended")
        facts, records = self.facts, self.world.records
        facts.rows, facts.steps, facts.notes = (
            await records.rows(),
            await records.steps(),
            await records.notes(),
        )
        facts.calls = list(self.world.provider.calls)
        facts.mails, facts.outbox = list(self.world.mail.mails), await records.outbox()
        facts.asked = self.world.client.asked + self.world.person.asked
        final = {row.id for row in facts.rows if row.is_final}
        for started in facts.started:
            if started.id in final:
                started.seen_later = await self._seen_later(started)

    async def _has_ended(self) -> bool:
        return not {each.id for each in self.facts.started} & await self.world.records.unended()

    async def _seen_later(self, started: Started) -> Snapshot | None:
        try:
            async with asyncio.timeout(WATCH_PATIENCE):
                return await started.watching.client.last_snapshot(started.id)
        except (TimeoutError, Refused, httpx.TransportError):
            return None

    async def _wait_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._began + at - time.monotonic()))

    def _say(self, sentence: str) -> None:
        self._tell(f"{time.monotonic() - self._began:6.1f} s  {sentence}")
