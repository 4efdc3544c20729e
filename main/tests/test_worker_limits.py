"""Workers survive what flows do to them: memory, processes left behind, calls that never end."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from config.tests.waiting import wait_until
from main.management.commands.doctor import worker
from main.models import Execution, WorkerBeat
from main.tests.platform import Platform, Visitor
from main.tests.rows import waiting, without_sweepers


def ended(task_id: str, seconds: float = 20) -> Execution:
    wait_until(lambda: Execution.objects.get(id=task_id).is_final, seconds)
    return Execution.objects.get(id=task_id)


def error_of(task_id: str) -> tuple[str, str, int]:
    """Return the type and the sentence of an execution's error, and how often its worker died."""
    execution = ended(task_id)
    assert execution.error, execution.result
    return execution.error["type"], execution.error["message"], execution.crashes


# Memory

TOO_MUCH = ("memory", "The flow needed more than the 256 MB of memory that an execution may use.", 0)


def test_a_run_that_outgrows_its_memory_fails_alone(visitor: Visitor, tmp_path: Path) -> None:
    neighbour = visitor.start("neighbour_flow", folder=str(tmp_path))
    wait_until((tmp_path / "begun").exists, 20)
    for how in ("at once", "slowly", "in processes", "again and again"):
        assert error_of(visitor.start("hungry_flow", how=how)) == TOO_MUCH, how
    assert ended(visitor.start("modest_flow")).result == 200, "what it may use is there"
    (tmp_path / "open").touch()
    assert (ended(neighbour).state, ended(neighbour).attempt) == ("SUCCESS", 1)


# What a run leaves behind


@pytest.fixture
def parent(visitor: Visitor, tmp_path: Path) -> str:
    """An execution that has started a process, which has started another out of sight."""
    task_id = visitor.start("parent_flow", folder=str(tmp_path))
    wait_until(lambda: processes(tmp_path), 20)
    return task_id


def processes(folder: Path) -> list[int]:
    """Return those that the newest attempt has started; none while it has not started both."""
    found = [path.read_text().strip() for path in map(folder.joinpath, ("seen", "hidden")) if path.exists()]
    return [int(pid) for pid in found] if len(found) == 2 and all(found) else []


def are_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_a_cancelled_run_takes_its_processes_with_it_and_makes_place(
    visitor: Visitor, parent: str, tmp_path: Path
) -> None:
    pids = processes(tmp_path)
    began = time.monotonic()
    visitor.post(f"/api/v1/executions/{parent}/cancel").raise_for_status()
    wait_until(lambda: are_gone(pids), 5)
    assert time.monotonic() - began < 2.5, "they are killed as soon as the run is told"
    run = int((tmp_path / "run").read_text())
    wait_until(lambda: not psutil.pid_exists(run), 5)  # it hangs, and goes soon after
    assert time.monotonic() - began < 5


def test_a_killed_child_is_replaced_and_what_it_left_is_ended(
    platform: Platform, parent: str, tmp_path: Path
) -> None:
    pids = processes(tmp_path)
    os.kill(int((tmp_path / "run").read_text()), signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: are_gone(pids), 6)
    wait_until(lambda: processes(tmp_path) not in ([], pids), 25)
    assert time.monotonic() - began < 20, "that is promised"
    assert Execution.objects.get(id=parent).crashes == 1
    second = processes(tmp_path)
    platform["worker-cpu"].stop(seconds=5.5)
    assert are_gone(second), "a stopped worker leaves nothing behind"
    platform["worker-cpu"].restart()
    assert Execution.objects.get(id=parent).state == "PENDING"
    Execution.objects.get(id=parent).cancel()


@pytest.mark.parametrize("flow", ["neighbour_flow", "cpu_slow_flow"])
def test_a_child_that_is_told_to_stop_hands_its_run_back(visitor: Visitor, tmp_path: Path, flow: str) -> None:
    """Also in the middle of a call; what is told to the process is nothing that its flow raised."""
    inputs: dict[str, Any] = {"folder": str(tmp_path)} if flow == "neighbour_flow" else {"seconds": 20}
    task_id = visitor.start(flow, **inputs)
    wait_until(lambda: Execution.objects.get(id=task_id).state == "RUNNING" and held_in_child(task_id))
    os.kill(held_in_child(task_id), signal.SIGTERM)
    wait_until(lambda: Execution.objects.get(id=task_id).attempt == 2, 10)
    execution = Execution.objects.get(id=task_id)
    assert (execution.state, execution.crashes) == ("RUNNING", 0)
    execution.cancel()


def test_a_child_that_heard_no_bell_hands_its_run_back_as_well(platform: Platform, tmp_path: Path) -> None:
    platform["worker-cpu"].restart()
    with without_sweepers():  # nobody rings: a new child finds it when it looks by itself
        execution = waiting("neighbour_flow", kind="cpu", inputs={"folder": str(tmp_path)})
        task_id = str(execution.id)
        wait_until((tmp_path / "begun").exists, 20)
        os.kill(held_in_child(task_id), signal.SIGTERM)
        wait_until(lambda: Execution.objects.get(id=task_id).attempt == 2)
    execution.refresh_from_db()
    assert (execution.state, execution.crashes) == ("RUNNING", 0)
    execution.cancel()


def held_in_child(task_id: str) -> int:
    """Return the process that runs an execution, from the name of its worker."""
    return int(Execution.objects.get(id=task_id).worker.rpartition("/")[2] or 0)


# Calls that never end


def test_a_worker_with_too_many_stuck_threads_makes_place_for_another(
    platform: Platform, visitor: Visitor, tmp_path: Path
) -> None:
    folders = [tmp_path / str(n) for n in range(9)]  # of 16 places
    for folder in folders:
        folder.mkdir()
    hung = [visitor.start("stubborn_flow", folder=str(folder)) for folder in folders]
    rest = visitor.start("gate_flow", folder=str(tmp_path))
    wait_until(lambda: all((folder / "hang-1").exists() for folder in folders), 20)
    wait_until((tmp_path / "wait-1").exists, 20)
    for task_id in hung:
        visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()
    assert platform["worker-io"].guard.wait(30) == 1
    assert "too many threads are stuck" in platform["worker-io"].log.read_text()
    execution = Execution.objects.get(id=rest)
    assert (execution.state, execution.crashes) == ("PENDING", 0), "the rest is handed back"
    platform["worker-io"].restart()
    (tmp_path / "open").touch()
    assert ended(rest).state == "SUCCESS"


@pytest.mark.django_db
def test_the_doctor_tells_of_stuck_threads() -> None:
    WorkerBeat.beat("host/1/2", "io", capacity=32, stuck=7)
    WorkerBeat.beat("host/3/4", "io", capacity=32)
    WorkerBeat.beat("host/5/6", "cpu")
    assert worker("io", "host").text.endswith(
        " s ago. 7 threads, for 64 places, are stuck in calls that do not end."
    )
    assert worker("cpu", "host").text.endswith(" s ago.")
