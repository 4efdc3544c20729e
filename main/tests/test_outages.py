"""Redis, PostgreSQL, workers and the web server go away and come back; no execution is lost, no watcher misled."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone
from redis import Redis

from config import embedded
from config.servers import Server, Servers
from config.tests.waiting import wait_until
from main.channel import meta_key
from main.models import Execution, WorkerBeat
from main.pump import RETRY, RETRY_SPREAD
from main.registry import get_flow
from main.tests.platform import Platform, Visitor
from main.tests.streams import (
    Message,
    all_snapshots,
    messages_of,
    opened,
    stored_snapshot,
)

PROJECT = Path(__file__).parents[2]
DATABASE = "api_ctm"


class Island:
    """A platform with a PostgreSQL and a Redis of its own, which may come to harm."""

    def __init__(self, servers: Servers, platform: Platform) -> None:
        self.platform = platform
        self._servers = servers
        self.postgres, self.redis = servers.servers

    def visitor(self) -> Visitor:
        """A session from an address of its own."""
        visitor = self.platform.visitor()
        visitor.headers["X-Forwarded-For"] = f"2001:db8::{random.getrandbits(32):x}"
        return visitor

    def kill(self, server: Server) -> None:
        os.kill(pid(server), signal.SIGKILL)
        server.wait_until_stopped()

    def stop(self, server: Server) -> None:
        server.begin_to_stop()
        server.wait_until_stopped()

    def revive(self) -> None:
        self._servers.revive()
        for server in self._servers.servers:
            server.wait_until_ready()

    @contextmanager
    def paused(self, server: Server) -> Iterator[None]:
        os.kill(pid(server), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid(server), signal.SIGCONT)


def pid(server: Server) -> int:
    """Return the server's process, below its guard."""
    assert server.process
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return int(children.read_text().split()[0])


@pytest.fixture(scope="module")
def own_island() -> Iterator[Island]:
    with tempfile.TemporaryDirectory(prefix="ctm-", dir="/tmp") as parent:
        local_dir = Path(parent) / "local"
        settings = {"LOCAL_DIR": str(local_dir), "POSTGRES_DB": DATABASE}
        with (
            embedded.owned(local_dir),
            Servers(local_dir, database_name=DATABASE, durable=False) as servers,
        ):
            migrate = [sys.executable, str(PROJECT / "manage.py"), "migrate", "-v", "0"]
            subprocess.run(migrate, env=os.environ | settings, check=True)
            with Platform(**settings, ANONYMOUS_STARTS_PER_MINUTE="3", PROXIES="1") as platform:
                yield Island(servers, platform)


@pytest.fixture
def island(own_island: Island) -> Iterator[Island]:
    """The island, with everything running again afterwards."""
    yield own_island
    own_island.revive()
    wait_until(lambda: httpx.get(f"{own_island.platform.url}/health/").status_code == 200, 20)


@pytest.fixture
def islander(island: Island) -> Iterator[Visitor]:
    with island.visitor() as visitor:
        yield visitor


class Watching(threading.Thread):
    """Somebody who watches an execution while other things happen, to its end or until a text is seen."""

    def __init__(self, visitor: Visitor, task_id: str, until: str = "") -> None:
        super().__init__()
        self._visitor, self._task_id, self._until = visitor, task_id, until
        self.seen: list[Message] = []
        self.everything: list[Message] = []
        self.start()

    def run(self) -> None:
        with opened(self._visitor, self._task_id) as stream:
            for message in stream:
                self.everything.append(message)
                if "data" in message.fields:
                    self.seen.append(message)
                    if self._until and self._until in message.fields["data"]:
                        return

    def wait_for(self, text: str) -> None:
        """Return as soon as the newest snapshot holds a text."""
        wait_until(lambda: self.seen and text in self.seen[-1].fields["data"], 20)

    def end(self, seconds: float = 30) -> list[Message]:
        """Return all snapshots once the stream has ended."""
        self.join(seconds)
        assert not self.is_alive(), f"no end within {seconds} s"
        return self.seen


def open_gate(folder: Path) -> None:
    (folder / "open").touch()


def calls(folder: Path) -> set[str]:
    """Return how often which step of gate_flow was called."""
    return {path.name for path in folder.iterdir()} - {"open"}


def expect_steady(seen: list[Message]) -> None:
    """Progress never falls, no entry is shown twice, and there is one end."""
    progress = [each.details["progress"] for each in seen]
    assert progress == sorted(progress)
    for each in seen:
        entries = [(entry["step"], entry["n"]) for entry in each.details["step_results"]]
        assert len(entries) == len(set(entries))
    finals = [each.snapshot["state"] in {"SUCCESS", "FAILURE"} for each in seen]
    assert finals == [False] * (len(seen) - 1) + [True]


# Redis


@pytest.mark.parametrize("who", ["who watched before", "who comes later"])
def test_a_flushed_redis_loses_nothing(island: Island, islander: Visitor, tmp_path: Path, who: str) -> None:
    wait_until(lambda: is_lively(island), 30)
    task_id = islander.start("gate_flow", folder=str(tmp_path))
    watching = Watching(islander, task_id, until="Waiting for the gate" if who == "who comes later" else "")
    watching.wait_for("Waiting for the gate")
    wait_until(lambda: b"Waiting for the gate" in (redis(island).get(meta_key(task_id)) or b""))
    redis(island).flushall()  # after the last write
    if who == "who comes later":
        watching = Watching(islander, task_id)
        watching.wait_for("▶ First")
        assert watching.seen[0].details["progress"] == 33
    open_gate(tmp_path)
    expect_steady(watching.end())
    last = watching.seen[-1].snapshot
    assert messages_of(last) == ["Begun", "▶ First", "▶ Wait", "Waiting for the gate"]
    assert last == all_snapshots(islander, task_id)[-1].snapshot


@pytest.mark.parametrize("who", ["who watched before", "who comes later"])
def test_a_redis_flushed_while_words_are_written_loses_none(
    island: Island, islander: Visitor, who: str
) -> None:
    wait_until(lambda: is_lively(island), 30)
    task_id = islander.start("slow_words_flow", words=60)
    watching = Watching(islander, task_id, until="word9" if who == "who comes later" else "")
    watching.wait_for("word9")
    redis(island).flushall()
    if who == "who comes later":
        watching = Watching(islander, task_id)
    expect_steady(watching.end())
    texts = [each.details["partial_result"] for each in watching.seen if "partial_result" in each.details]
    # Redis has the whole text again as soon as the worker wrote its next snapshot there.
    whole = [text for text in texts if text.startswith("**word0** **word1**")]
    assert whole == texts[-len(whole) :]
    assert len(whole) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(whole))
    assert watching.seen[-1].snapshot == all_snapshots(islander, task_id)[-1].snapshot


@contextmanager
def away(island: Island, how: str) -> Iterator[None]:
    """Have no Redis for the length of the block."""
    if how == "hung":
        with island.paused(island.redis):
            yield
    else:
        island.kill(island.redis)
        yield
        island.revive()


def is_lively(island: Island) -> bool:
    """Whether a bell is heard at once, and an answer seen to grow."""
    with island.visitor() as visitor:
        began = time.monotonic()
        frames = all_snapshots(visitor, visitor.start("slow_words_flow", words=10))
        seconds = time.monotonic() - began
    growing = [each for each in frames if "partial_result" in each.details]
    return seconds < 1.3 and len(growing) >= 2


def redis(island: Island) -> Redis:
    return Redis.from_url(embedded.redis_url(island.redis.local_dir), single_connection_client=False)


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_a_run_under_way_goes_on_when_redis_does_not(
    island: Island, islander: Visitor, tmp_path: Path, how: str
) -> None:
    task_id = islander.start("gate_flow", folder=str(tmp_path))
    watching = Watching(islander, task_id)
    watching.wait_for("Waiting for the gate")
    with away(island, how):
        open_gate(tmp_path)
        expect_steady(watching.end())
    assert watching.seen[-1].snapshot["state"] == "SUCCESS"
    assert calls(tmp_path) == {"first-1", "wait-1"}
    assert all_snapshots(islander, task_id)[-1].snapshot == watching.seen[-1].snapshot


def test_with_redis_dead_executions_start_run_and_are_watched(island: Island, islander: Visitor) -> None:
    island.kill(island.redis)
    began = time.monotonic()
    task_id = islander.start("slow_words_flow", words=20)
    assert time.monotonic() - began < 1
    seen = all_snapshots(islander, task_id)
    expect_steady(seen)
    assert "**word19**" in seen[-1].details["final_result"]
    assert messages_of(seen[-1].snapshot) == ["▶ Think", "Thinking about words", "▶ Write"]
    assert islander.get("/").status_code == 200


def test_with_redis_dead_nobody_is_counted(island: Island, islander: Visitor) -> None:
    def start() -> int:
        return islander.post("/start-task/", json={"flow": "count_flow"}).status_code

    wait_until(lambda: start() == 429)
    island.kill(island.redis)
    assert [start() for _ in range(5)] == [200] * 5


def test_with_redis_hung_executions_start_run_and_are_watched(island: Island, islander: Visitor) -> None:
    with island.paused(island.redis):
        began = time.monotonic()
        task_id = islander.start("slow_words_flow", words=20)
        assert time.monotonic() - began < 1.5
        seen = all_snapshots(islander, task_id)
    expect_steady(seen)
    assert "**word19**" in seen[-1].details["final_result"]


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_with_redis_back_all_is_live_again(island: Island, islander: Visitor, how: str) -> None:
    with away(island, how):
        task_id = islander.start("count_flow")
        all_snapshots(islander, task_id)
    wait_until(lambda: is_lively(island), 30)
    wait_until(
        lambda: b'"status":"SUCCESS"' in (redis(island).get(meta_key(task_id)) or b"")
    )  # AsyncResult's


# PostgreSQL


def test_without_postgresql_the_answer_is_a_clean_503(island: Island, islander: Visitor) -> None:
    task_id = islander.start("count_flow")
    all_snapshots(islander, task_id)
    island.stop(island.postgres)

    def ask(method: str, path: str) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        return islander.request(method, path, json={"flow": "count_flow"}), time.monotonic() - began

    paths = [("POST", "/start-task/"), ("GET", f"/executions/{task_id}/"), ("GET", "/health/")]
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, "GET", f"/task-status/{task_id}/")
        for response, seconds in pool.map(ask, *zip(*paths, strict=True)):
            assert seconds < 3
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert int(response.headers["retry-after"]) > 0
            assert "database" in response.json()["error"]
        response, seconds = stream.result()
    assert seconds < 3
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert re.fullmatch(r"retry: \d+\n\n", response.text)
    island.revive()
    wait_until(lambda: islander.get("/health/").status_code == 200, 4)
    assert islander.run("count_flow")["state"] == "SUCCESS"
    assert all_snapshots(islander, task_id)[-1].snapshot["state"] == "SUCCESS"


def test_a_run_outlives_a_short_outage_of_postgresql(
    island: Island, islander: Visitor, tmp_path: Path
) -> None:
    task_id = islander.start("gate_flow", folder=str(tmp_path))
    watching = Watching(islander, task_id)
    watching.wait_for("Waiting for the gate")
    island.stop(island.postgres)
    open_gate(tmp_path)
    assert islander.get("/health/").status_code == 503  # as long as that takes, the step cannot be kept
    assert watching.is_alive()
    island.revive()
    expect_steady(watching.end())
    assert watching.seen[-1].details["final_result"] == "first-1 wait-1"
    assert islander.details(task_id)["attempt"] == 1


# Workers


def test_a_killed_worker_loses_nothing(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    watching = Watching(visitor, task_id)
    watching.wait_for("Waiting for the gate")
    platform["worker-io"].kill()
    platform["worker-io"].restart()
    wait_until((tmp_path / "wait-2").exists, 20)
    watching.wait_for('"restarted":true')
    open_gate(tmp_path)
    expect_steady(watching.end())
    assert calls(tmp_path) == {"first-1", "wait-1", "wait-2"}
    last = watching.seen[-1].snapshot
    assert last["details"]["final_result"] == "first-1 wait-2"
    assert messages_of(last) == ["Begun", "▶ First", "▶ Wait", "Waiting for the gate"]
    assert last == stored_snapshot(task_id)
    execution = Execution.objects.get(id=task_id)
    assert (execution.attempt, execution.crashes) == (2, 1)


def test_a_stopped_worker_hands_its_run_back(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    watching = Watching(visitor, task_id)
    watching.wait_for("Waiting for the gate")
    worker = worker_of(task_id)
    wait_until(lambda: beats(worker))
    platform["worker-io"].stop(seconds=5.5)
    assert not beats(worker), "it signs off"
    execution = Execution.objects.get(id=task_id)
    assert (execution.state, execution.attempt, execution.crashes) == ("PENDING", 1, 0)
    platform["worker-io"].restart()
    wait_until((tmp_path / "wait-2").exists, 20)
    open_gate(tmp_path)
    expect_steady(watching.end())
    assert calls(tmp_path) == {"first-1", "wait-1", "wait-2"}
    assert watching.seen[-1].snapshot == stored_snapshot(task_id)
    assert Execution.objects.get(id=task_id).crashes == 0


def worker_of(task_id: str) -> str:
    """Return what the names of the processes begin with that an execution's worker consists of."""
    return Execution.objects.get(id=task_id).worker.rpartition("/")[0] + "/"


def beats(worker: str) -> list[WorkerBeat]:
    return list(WorkerBeat.objects.filter(name__startswith=worker))


@pytest.mark.parametrize("hung", ["redis", "postgres"])
def test_a_worker_is_stopped_in_time_where_a_server_hangs(
    island: Island, islander: Visitor, tmp_path: Path, hung: str
) -> None:
    task_id = islander.start("stubborn_flow", folder=str(tmp_path))
    wait_until((tmp_path / "hang-1").exists, 20)
    worker = island.platform["worker-io"]
    try:
        with island.paused(getattr(island, hung)):
            worker.stop(seconds=5.5)
        assert "could not hand back" not in worker.log.read_text()
    finally:
        worker.restart()
    if hung == "redis":  # it was handed back all the same: a lease would run out later
        wait_until(lambda: islander.details(task_id)["attempt"] == 2, 10)
    islander.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()


def test_a_stopped_cpu_worker_ends_its_runs_at_their_next_step(
    platform: Platform, visitor: Visitor, tmp_path: Path
) -> None:
    task_id = visitor.start("cpu_steps_flow", folder=str(tmp_path), steps=12)
    wait_until(lambda: len(calls(tmp_path)) == 2, 20)
    worker = worker_of(task_id)
    wait_until(lambda: len(beats(worker)) == 2)  # each child has its own
    platform["worker-cpu"].stop(seconds=5.5)
    try:
        assert not beats(worker), "they are signed off"
        begun = len(calls(tmp_path))
        assert begun <= 4
        execution = Execution.objects.get(id=task_id)
        assert (execution.state, execution.attempt, execution.crashes) == ("PENDING", 1, 0)
        assert execution.steps.count() == begun, "what was under way is kept"
    finally:
        platform["worker-cpu"].restart()
    assert all_snapshots(visitor, task_id)[-1].snapshot["state"] == "SUCCESS"
    assert len(calls(tmp_path)) == 12
    assert Execution.objects.get(id=task_id).attempt == 2


def test_a_cpu_run_that_hangs_and_was_cancelled_blocks_its_place_for_some_seconds_only(
    visitor: Visitor,
) -> None:
    hanging = [visitor.start("cpu_slow_flow", seconds=60) for _ in range(2)]  # in both places
    wait_until(lambda: Execution.objects.filter(id__in=hanging, steps__key="First").count() == 2, 20)
    for task_id in hanging:
        visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()
    task_id = visitor.start("cpu_count_flow")
    wait_until(lambda: Execution.objects.get(id=task_id).state == "SUCCESS", 30)
    assert Execution.objects.get(id=task_id).attempt == 1


def test_a_run_past_its_limit_is_ended(visitor: Visitor) -> None:
    began = time.monotonic()
    seen = all_snapshots(visitor, visitor.start("endless_flow"))
    assert time.monotonic() - began < 10
    expect_steady(seen)
    assert seen[-1].details["error"] == {
        "type": "timeout",
        "message": "The execution took longer than it may and was stopped.",
        "retryable": False,
    }


def crashed(visitor: Visitor, times: int) -> Execution:
    """An execution whose worker has just died, and as often before."""
    owner = Execution.objects.get(id=visitor.start("count_flow")).visitor
    return Execution.objects.create(
        flow="count_flow",
        kind=get_flow("count_flow").kind,
        inputs={"to": 3},
        visitor=owner,
        time_limit=60,
        state="RUNNING",
        worker="nowhere/1/1",
        attempt=times,
        crashes=times - 1,
        lease_until=timezone.now() - timedelta(seconds=1),
    )


def test_an_execution_that_kills_its_workers_is_ended(visitor: Visitor) -> None:
    execution = crashed(visitor, times=3)
    seen = all_snapshots(visitor, str(execution.id))
    error: dict[str, Any] = seen[-1].details["error"]
    assert (error["type"], error["retryable"]) == ("poison", False)
    execution.refresh_from_db()
    assert (execution.state, execution.crashes, execution.attempt) == ("FAILURE", 3, 3)


def test_an_execution_whose_workers_died_less_often_is_tried_again(visitor: Visitor) -> None:
    execution = crashed(visitor, times=2)
    seen = all_snapshots(visitor, str(execution.id))
    assert seen[-1].details["final_result"] == 3
    execution.refresh_from_db()
    assert (execution.crashes, execution.attempt) == (2, 3)


def test_a_poisonous_execution_ends_alone(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    """What ran beside it in the same process, each time it died, goes on."""
    neighbour = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until((tmp_path / "wait-1").exists, 20)
    poison = visitor.start("deadly_flow")
    for _ in range(2):
        platform["worker-io"].guard.wait(30)
        Execution.objects.filter(state="RUNNING").update(lease_until=timezone.now())
        platform["worker-io"].restart()
    wait_until(lambda: Execution.objects.get(id=poison).attempt == 3, 20)
    wait_until(lambda: not is_there(int(Execution.objects.get(id=poison).worker.rpartition("/")[2])), 10)
    Execution.objects.filter(id=poison).update(lease_until=timezone.now())
    error: dict[str, Any] = list(visitor.watch(poison))[-1]["details"]["error"]
    assert error["type"] == "poison"
    open_gate(tmp_path)
    assert list(visitor.watch(neighbour))[-1]["state"] == "SUCCESS"


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# The web server


def test_a_stopped_web_server_asks_its_watchers_to_come_back(
    platform: Platform, visitor: Visitor, tmp_path: Path
) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    watching = Watching(visitor, task_id)
    watching.wait_for("Waiting for the gate")
    began = time.monotonic()
    platform["web"].stop()
    watching.join(2)
    assert not watching.is_alive()
    assert time.monotonic() - began < 4
    assert set(watching.everything[-1].fields) == {"retry"}
    back_in = int(watching.everything[-1].fields["retry"]) / 1000
    assert RETRY <= back_in <= RETRY + RETRY_SPREAD + 0.1  # which few watchers add
    platform["web"].restart()
    wait_until(platform.answers, 20)
    open_gate(tmp_path)
    again = all_snapshots(visitor, task_id)
    assert messages_of(again[0].snapshot) == messages_of(watching.seen[-1].snapshot)
    assert again[-1].details["final_result"] == "first-1 wait-1"
