"""The harness sees: a build without a guarantee fails, and the same run of a whole one does not.

Each world has a web server and two io workers. One worker is frozen until another has taken over what it held, and
wakes up again; at the same time the other is killed. In the worlds that have mail the mail server cannot be reached
until everything has ended. The worlds run side by side, each with a database of its own.
"""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from chaos.faults import ACTIONS, Fault, victim
from chaos.play import Play, starts
from chaos.processes import Shape
from chaos.proxy import Mode
from chaos.records import Held
from chaos.schedule import Kind, Planned
from chaos.verdict import counts, judge
from chaos.world import Place, World, prepare_database, running_world
from config import embedded
from config.servers import Servers

BUILDS = ("", "no_fence", "no_journal", "no_sweeper", "no_outbox")
WITH_MAIL = ("", "no_outbox")
FLOWS = ("steps_flow", "effects_flow", "branches_flow")
EXECUTIONS = [
    replace(start, seconds=7.0, cancel_after=None)
    for start in starts(seed=1, count=8, seconds=1.0, flows=FLOWS)
]
# One worker has no place for all of them, so that each has something to lose.
SHAPE = Shape(web=1, io=2, cpu=0, notifications=0, threads=len(EXECUTIONS) - 1)
# Seconds in which every execution has finished a step, in which leases run out, and in which all ends.
STEP_PATIENCE, LEASE_PATIENCE, PATIENCE = 30.0, 22.0, 12.0
MAIL_PATIENCE = 60.0

pytestmark = pytest.mark.timeout(240)


async def harm_both(world: World, fault: Fault) -> None:
    """Freeze one worker and kill the other; wake the first when the other has taken over what it held."""
    await become_true(lambda: has_each_finished_a_step(world), STEP_PATIENCE)
    frozen, held = await victim(world, "io")
    frozen.freeze()
    other, others = await victim(world, "io")
    fault.strike("both workers", [*held, *others])
    await other.send(signal.SIGKILL)
    await become_true(lambda: have_gone_on(world, held), LEASE_PATIENCE)
    frozen.resume()


async def has_each_finished_a_step(world: World) -> bool:
    running = await world.records.running()
    stepped = {step.execution for step in await world.records.steps()}
    return len(running) >= len(EXECUTIONS) and stepped >= {each.id for each in running}


async def have_gone_on(world: World, held: list[Held]) -> bool:
    """Say whether a later attempt at each of them is in a step, or has ended it."""
    calls = {(call.execution, call.attempt) for call in world.provider.calls}
    unended = await world.records.unended()
    return all((each.id, each.attempt + 1) in calls or each.id not in unended for each in held)


async def become_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Return as soon as the condition holds, or after so many seconds."""
    until = time.monotonic() + seconds
    while not await condition() and time.monotonic() < until:
        await asyncio.sleep(0.1)


async def cut_mail_off(world: World, fault: Fault) -> None:
    """Let nobody reach the mail server until every mail was tried."""
    proxy = world.proxies["mail"]
    proxy.become(Mode.CUT)
    fault.strike("mail", [])
    await become_true(lambda: was_each_tried(world), MAIL_PATIENCE)
    proxy.become(Mode.PASS)


async def was_each_tried(world: World) -> bool:
    outbox = await world.records.outbox()
    asked = sum(start.notify for start in EXECUTIONS)
    return sum(each.attempt > 0 for each in outbox) >= asked


HARM = Kind("both workers harmed", frozenset({"io"}), lasts=20.0, lasts_long=20.0, costs_attempt=True)
NO_MAIL = Kind("mail cut off", frozenset({"mail"}), lasts=20.0, lasts_long=20.0)
ACTIONS[HARM], ACTIONS[NO_MAIL] = harm_both, cut_mail_off


@pytest.fixture(scope="module")
def counted() -> Iterator[dict[str, dict[str, int]]]:
    """What each build was found to do, by name."""
    local_dir = Path(tempfile.mkdtemp(prefix="ctm-chaos-", dir="/tmp"))  # short: the sockets are in it
    with (
        embedded.owned(local_dir),
        Servers(local_dir, database_name="whole", durable=False) as servers,
    ):
        yield asyncio.run(run_all(local_dir, servers))
    shutil.rmtree(local_dir)


async def run_all(local_dir: Path, servers: Servers) -> dict[str, dict[str, int]]:
    places = [Place(local_dir, servers, build or "whole", number) for number, build in enumerate(BUILDS)]
    whole, *copies = places
    await prepare_database(whole)
    for copy in copies:
        copy_database(whole, copy.database)
    results = await asyncio.gather(*map(run, places, BUILDS))
    return dict(zip(BUILDS, results, strict=True))


def copy_database(place: Place, name: str) -> None:
    address = f"host={place.sockets} port={embedded.PORT} user={embedded.USER} dbname=postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {place.database}".encode())


async def run(place: Place, build: str) -> dict[str, int]:
    has_mail = build in WITH_MAIL
    executions = [replace(start, notify=start.notify and has_mail) for start in EXECUTIONS]
    faults = [Planned(0.5, NO_MAIL, 20.0)] if has_mail else []
    async with running_world(place, replace(SHAPE, notifications=int(has_mail)), broken=build) as world:
        play = Play(world, tell=lambda line: None)
        facts = await play.play(executions, [*faults, Planned(1.0, HARM, 20.0)], PATIENCE)
    assert len(facts.started) == len(EXECUTIONS) + 1
    assert not any(fault.skipped for fault in facts.faults)
    findings = judge(facts)
    print(build or "whole", *findings, sep="\n")  # for the report of a test that fails
    return counts(findings)


def test_a_whole_build_is_found_to_keep_what_it_promises(counted: dict[str, dict[str, int]]) -> None:
    assert set(counted[""].values()) == {0}, counted[""]


def test_a_build_without_a_fence_is_seen(counted: dict[str, dict[str, int]]) -> None:
    assert counted["no_fence"]["stale writes"] > 0


def test_a_build_without_a_journal_is_seen(counted: dict[str, dict[str, int]]) -> None:
    assert counted["no_journal"]["finished steps done again"] > 0


def test_a_build_without_a_sweeper_is_seen(counted: dict[str, dict[str, int]]) -> None:
    assert counted["no_sweeper"]["stuck"] > 0


def test_a_build_that_takes_mails_for_sent_is_seen(counted: dict[str, dict[str, int]]) -> None:
    assert counted["no_outbox"]["mails lost"] > 0
