"""Graphs from a claim to an end, with the real PostgreSQL and Redis: what is kept, and what is fenced out."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.postgresql.base import DatabaseWrapper
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint

from config.tests.waiting import wait_until
from main import again, channel, database, engine, sweeper
from main.channel import history, redis_client, stream_key
from main.checkpointer import Checkpointer
from main.checkpoints import Checkpoint, CheckpointBlob, CheckpointWrite
from main.engine import DatabaseJournal, Workplace, execute
from main.journal import Fenced
from main.leases import heart
from main.models import Execution, Step
from main.registry import load_flows
from main.run import Run
from main.tests import rows
from main.tests.executing import claim, executed, fresh, waiting
from main.tests.memory import Channel
from main.tests.platform import Platform, Visitor
from main.tests.rows import KIND, in_thread, let_expire, without_sweepers

FLOWS = ["main.flows", "main.tests.engine_flows", "main.tests.graph_flows"]
TABLES: list[type[Any]] = [Checkpoint, CheckpointBlob, CheckpointWrite]


@pytest.fixture
def alone(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep a running platform's sweepers away; this process has a workplace of its own."""
    load_flows(FLOWS)
    monkeypatch.setattr(sweeper, "LOCK", sweeper.LOCK + 1)
    monkeypatch.setattr(channel, "_silent_until", 0.0)
    monkeypatch.setattr(engine, "workplace", Workplace(KIND, capacity=2))
    with without_sweepers():
        yield


def calls(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def everything() -> list[list[dict[str, Any]]]:
    return [*rows.everything(), *(list(table.objects.order_by("pk").values()) for table in TABLES)]


def keys(execution: Execution) -> set[str]:
    return {step.key for step in execution.steps.all()}


def is_in_the_middle(execution: Execution) -> bool:
    known = history(str(execution.id))
    return known is not None and ("Graph/slow#2", 1) in known.entries and "Graph/quick#2" in keys(execution)


class Graph:
    """An execution of `graph_flow` in a thread, whose node `slow` waits while `quick`, beside it, has finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.execution = waiting("graph_flow", folder=str(folder))
        self.attempt: Future[None] = in_thread(lambda: execute(claim()))
        wait_until(lambda: is_in_the_middle(self.execution))

    def open(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def graph(alone: None, tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(tmp_path)
    yield graph
    graph.open()
    graph.attempt.exception(20)
    wait_until(lambda: not heart.running)


ONCE = {"first-1", "quick-1", "slow-1", "last-1", "open"}


def test_a_graph_has_its_result_steps_and_entries(alone: None, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    execution = executed("graph_flow", folder=str(tmp_path))
    assert (execution.state, execution.result) == ("SUCCESS", ["first-1", "quick-1", "slow-1", "last-1"])
    assert keys(execution) == {"Graph", "Graph/first#1", "Graph/quick#2", "Graph/slow#2", "Graph/last#3"}
    assert {(entry.step, str(entry)) for entry in execution.entries.all()} == {
        ("Graph", "▶ Graph"),
        *((f"Graph/{key}", f"▶ {key[:-2]}") for key in ("first#1", "quick#2", "slow#2", "last#3")),
        *((f"Graph/{key}", f"In {key[:-2]}") for key in ("first#1", "quick#2", "slow#2", "last#3")),
    }
    assert CheckpointWrite.objects.filter(task_path__contains="first").exists()
    known = history(str(execution.id))
    assert known
    assert sorted_steps(known.public()) == sorted_steps(execution.snapshot().public())


def test_threads_of_langgraph_give_their_connections_back(alone: None, tmp_path: Path) -> None:
    def taken() -> int:
        connection.close()
        stats = cast(DatabaseWrapper, connections["default"]).pool.get_stats()
        return int(stats["pool_size"] - stats["pool_available"])

    before = taken()
    (tmp_path / "open").touch()
    executed("graph_flow", folder=str(tmp_path))
    assert taken() == before


def sorted_steps(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The order of two nodes that run at once is theirs."""
    details = snapshot["details"]
    details["steps"].sort(key=lambda step: step["step"])
    details["step_results"].sort(key=lambda entry: (entry["step"], entry["n"]))
    return snapshot


def test_a_later_attempt_runs_the_unfinished_node_alone(graph: Graph) -> None:
    let_expire(graph.execution)
    assert Execution.take_back() == [KIND]
    graph.open()
    execute(claim())
    ended = fresh(graph.execution)
    assert (ended.state, ended.attempt) == ("SUCCESS", 2)
    assert ended.result == ["first-1", "quick-1", "slow-2", "last-1"]
    assert calls(graph.folder) == ONCE | {"slow-2"}
    events = [event for event in streamed(ended) if event["id"].startswith("2-") and event["type"] == "step"]
    assert [(event["step"], event["state"], event.get("restarted", False)) for event in events] == [
        ("Graph", "running", True),
        ("Graph/slow#2", "running", True),
        ("Graph/slow#2", "done", False),
        ("Graph/last#3", "running", False),
        ("Graph/last#3", "done", False),
        ("Graph", "done", False),
    ]
    assert [(step.key, step.attempt) for step in ended.steps.all()] == [
        ("Graph/first#1", 1),
        ("Graph/quick#2", 1),
        ("Graph/slow#2", 2),
        ("Graph/last#3", 2),
        ("Graph", 2),
    ]
    texts = [str(entry) for entry in ended.entries.all()]
    assert len(texts) == len(set(texts)) == 9
    assert texts.index("In quick") < texts.index("In slow") < texts.index("In last")


def streamed(execution: Execution) -> list[Any]:
    import orjson

    found: Any = redis_client().xrange(stream_key(str(execution.id)))
    return [orjson.loads(fields[b"e"]) for _, fields in found]


def test_a_later_attempt_shows_finished_nodes_where_redis_forgot(graph: Graph) -> None:
    assert fresh(graph.execution).hand_back()
    graph.open()
    graph.attempt.result(20)
    redis_client().delete(stream_key(str(graph.execution.id)), channel.meta_key(str(graph.execution.id)))
    execute(claim())
    known = history(str(graph.execution.id))
    assert known
    assert sorted_steps(known.public()) == sorted_steps(fresh(graph.execution).snapshot().public())


def test_a_fenced_attempt_changes_nothing_in_its_graph(graph: Graph) -> None:
    assert fresh(graph.execution).hand_back()
    second = claim()
    before = everything()
    graph.open()
    graph.attempt.result(20)
    assert calls(graph.folder) == {"first-1", "quick-1", "slow-1", "open"}
    assert everything() == before
    execute(second)
    assert fresh(second).result == ["first-1", "quick-1", "slow-2", "last-1"]


def test_a_cancelled_graph_stops_in_its_node_and_changes_nothing(graph: Graph) -> None:
    assert fresh(graph.execution).cancel()
    before = everything()
    heart.beat()
    graph.attempt.result(20)
    assert everything() == before
    assert calls(graph.folder) == {"first-1", "quick-1", "slow-1"}


def test_deleting_the_execution_deletes_its_checkpoints(alone: None, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    execution = executed("graph_flow", folder=str(tmp_path))
    assert all(table.objects.filter(execution=execution).exists() for table in TABLES)
    execution.delete()
    assert not any(table.objects.exists() for table in TABLES)


def test_an_agent_answers(alone: None, settings: Any) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0
    execution = executed("agent_flow", question="tides")
    assert (execution.state, execution.error) == ("SUCCESS", None)
    assert "This is the demo model" in str(execution.result)
    assert execution.chat_model == "Demo model"
    tokens = [event for event in streamed(execution) if event["type"] == "token"]
    assert "".join(token["text"] for token in tokens).strip() == execution.result
    assert {token["step"] for token in tokens} == {"Agent/model#1"}


def test_from_the_failed_step_only_the_failed_node_runs_again(alone: None, tmp_path: Path) -> None:
    failed = executed("failing_graph_flow", folder=str(tmp_path))
    assert failed.error
    assert failed.error["type"] == "shut"
    assert keys(failed) == {"Graph/first#1", "Graph/gate#2/before#1"}
    (tmp_path / "open").touch()
    started = again.run_again_from_failed_step(failed)
    Execution.objects.filter(id=started.id).update(kind=KIND)
    execute(claim())
    ended = fresh(started)
    assert (ended.state, ended.result) == ("SUCCESS", ["first-1", "first-1", "before-1", "shut-2"])
    assert calls(tmp_path) == {"first-1", "before-1", "shut-1", "shut-2", "open"}


# Node and writes


def test_a_node_is_kept_with_what_it_wrote_or_not_at_all(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Checkpointer, "INSERT_CHECKPOINT_WRITES_SQL", "SELECT 1 / %s - %s, %s, %s, %s, %s, %s, %s, %s"
    )
    execution = executed("graph_flow", folder=str(tmp_path))
    assert execution.state == "FAILURE"
    assert keys(execution) == set()
    assert not CheckpointWrite.objects.exists()


def test_what_a_node_wrote_is_kept_with_the_node_or_not_at_all(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(Step, "record", fail)
    assert executed("graph_flow", folder=str(tmp_path)).state == "FAILURE"
    assert not CheckpointWrite.objects.filter(task_path__contains="first").exists()


@pytest.mark.parametrize("what", ["_put", "_put_writes"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after its commit"])
def test_a_database_that_goes_away_is_waited_for(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, late: bool
) -> None:
    monkeypatch.setattr(database, "DATABASE_PAUSE", 0.01)
    (tmp_path / "open").touch()
    real: Callable[..., None] = getattr(Checkpointer, what)
    failures = [OperationalError() for _ in range(3)]

    def fail(*args: Any) -> None:
        if late or not failures:
            real(*args)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Checkpointer, what, fail)
    execution = executed("graph_flow", folder=str(tmp_path))
    assert (execution.state, len(keys(execution))) == ("SUCCESS", 5)
    assert calls(tmp_path) == ONCE


# The fence of the checkpointer itself


def checkpointer(execution: Execution) -> Checkpointer:
    run = Run(str(execution.id), journal=DatabaseJournal(execution), channel=Channel())
    return Checkpointer(execution, run)


def thread(execution: Execution) -> dict[str, Any]:
    return {"thread_id": f"{execution.id}/Graph", "checkpoint_ns": ""}


@pytest.mark.django_db(transaction=True)
def test_a_stale_attempt_puts_nothing_and_the_newest_does() -> None:
    stale = rows.claimed()
    assert stale.hand_back()
    newest = claim()
    values = {"words": ["one"], "text": "nul \x00", "number": float("inf"), "flag": True, "nothing": None}
    versions = dict.fromkeys(values, "1")
    checkpoint = empty_checkpoint() | {"channel_values": values, "channel_versions": versions}
    with pytest.raises(Fenced):
        put(stale, checkpoint)
    assert not any(table.objects.exists() for table in TABLES)
    put(newest, checkpoint)
    found = checkpointer(newest).get_tuple({"configurable": thread(newest)})
    assert found
    assert found.checkpoint == checkpoint


def put(execution: Execution, checkpoint: Any) -> None:
    config: Any = {"configurable": thread(execution)}
    checkpointer(execution).put(
        config, checkpoint, {"source": "input", "step": -1}, checkpoint["channel_versions"]
    )


@pytest.mark.django_db(transaction=True)
def test_a_stale_attempt_puts_no_writes_and_the_newest_does() -> None:
    stale = rows.claimed()
    put(stale, empty_checkpoint())
    [checkpoint] = Checkpoint.objects.all()
    assert stale.hand_back()
    newest = claim()
    with pytest.raises(Fenced):
        put_writes(stale, checkpoint.checkpoint_id)
    assert not CheckpointWrite.objects.exists()
    put_writes(newest, checkpoint.checkpoint_id)
    found: CheckpointTuple | None = checkpointer(newest).get_tuple({"configurable": thread(newest)})
    assert found
    assert found.pending_writes == [("task", "words", ["two"])]


def put_writes(execution: Execution, checkpoint_id: str) -> None:
    config: Any = {"configurable": {**thread(execution), "checkpoint_id": checkpoint_id}}
    checkpointer(execution).put_writes(config, [("words", ["two"])], "task")


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_breaks_is_an_error_that_is_waited_for() -> None:
    execution = rows.claimed()
    saver = checkpointer(execution)
    with pytest.raises(OperationalError), saver._cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert saver.get_tuple({"configurable": thread(execution)}) is None


# On the platform


def test_a_killed_worker_loses_no_node(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("graph_flow", folder=str(tmp_path))
    execution = Execution.objects.get(id=task_id)
    wait_until(lambda: is_in_the_middle(execution) and "slow-1" in calls(tmp_path))
    platform["worker-io"].kill()
    (tmp_path / "open").touch()
    platform["worker-io"].restart()
    let_expire(execution)
    last = sorted_steps(list(visitor.watch(task_id))[-1])
    assert last["state"] == "SUCCESS"
    assert last["details"]["final_result"] == ["first-1", "quick-1", "slow-2", "last-1"]
    assert calls(tmp_path) == ONCE | {"slow-2"}
    assert {step["state"] for step in last["details"]["steps"]} == {"done"}
    stored = sorted_steps(Execution.objects.get(id=task_id).snapshot().public())
    assert last["details"] == stored["details"]
