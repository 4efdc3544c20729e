"""The harness sees: a build without a guarantee fails, and the same run of a whole one does not.

Each world has a web server and two io workers. One worker is frozen for longer than its lease and wakes up again;
at the same time the other is killed. The worlds run side by side, each with a database of its own.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from chaos.faults import FREEZE_IO, KILL_IO
from chaos.play import Play, starts
from chaos.processes import Shape
from chaos.schedule import Planned
from chaos.verdict import counts, judge
from chaos.world import Place, prepare_database, running_world
from config import embedded
from config.servers import Servers

BUILDS = ("", "no_fence", "no_journal", "no_sweeper")
SHAPE = Shape(web=1, io=2, cpu=0)
FLOWS = ("steps_flow", "effects_flow", "branches_flow")
EXECUTIONS = starts(seed=1, count=9, seconds=2.0, flows=FLOWS)
# The frozen worker wakes up when others have taken over what it held.
FAULTS = [Planned(4.0, FREEZE_IO, lasts=20.0), Planned(5.0, KILL_IO, lasts=1.0)]
# Seconds after the last fault; a killed worker's leases have run out by then, twice.
PATIENCE = 20.0

pytestmark = pytest.mark.timeout(240)


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
    async with running_world(place, SHAPE, broken=build) as world:
        facts = await Play(world, tell=lambda line: None).play(EXECUTIONS, FAULTS, PATIENCE)
    assert len(facts.started) == len(EXECUTIONS) + 1
    assert [fault.skipped for fault in facts.faults] == ["", ""]
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
