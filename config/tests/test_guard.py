"""The guard ends its command with the one who started it, whatever the command does."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from config.embedded import becomes_free, children_lock, guarded, holders
from config.tests.waiting import wait_until

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)
POLITE = "import time; print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " start_new_session=False); print('up', flush=True); sys.stdin.read()"
)


def start(empty_dir: Path, code: str, grace: float = 5.0) -> subprocess.Popen[bytes]:
    empty_dir.mkdir(exist_ok=True)
    return subprocess.Popen(
        guarded([sys.executable, "-c", code], empty_dir, grace=grace),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def start_and_wait(empty_dir: Path, code: str, grace: float = 5.0) -> subprocess.Popen[bytes]:
    process = start(empty_dir, code, grace)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


def test_the_exit_code_is_passed_on(empty_dir: Path) -> None:
    with start(empty_dir, "import sys; sys.exit(7)") as process:
        assert process.wait() == 7


def test_a_signal_that_ended_the_command_is_passed_on(empty_dir: Path) -> None:
    with start(empty_dir, "import os; os.kill(os.getpid(), 9)") as process:
        assert process.wait() == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_is_named(empty_dir: Path) -> None:
    empty_dir.mkdir(exist_ok=True)
    command = guarded(["no-such-command"], empty_dir, grace=1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.read().startswith(b"no-such-command does not start: ")
        assert process.wait() == 127


def test_the_command_is_asked_to_end_when_the_lifeline_closes(empty_dir: Path) -> None:
    with start_and_wait(empty_dir, POLITE) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=3) == 128 + signal.SIGTERM


def test_a_command_that_will_not_end_is_killed(empty_dir: Path) -> None:
    with start_and_wait(empty_dir, STUBBORN, grace=0.2) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=3) == 128 + signal.SIGKILL


def test_what_the_command_started_ends_with_it(empty_dir: Path) -> None:
    with start_and_wait(empty_dir, PARENT) as process:
        grandchildren = psutil.Process(process.pid).children(recursive=True)
        assert process.wait(timeout=5) == 0  # its standard input is empty
    psutil.wait_procs(grandchildren, timeout=3)
    assert not any(each.is_running() for each in grandchildren)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_the_command_ends_when_the_guard_is_killed(empty_dir: Path) -> None:
    with start_and_wait(empty_dir, POLITE) as process:
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_the_lock_is_held_for_as_long_as_anything_lives(empty_dir: Path) -> None:
    with start_and_wait(empty_dir, POLITE) as process:
        assert not becomes_free(children_lock(empty_dir), patience=0)
        assert process.pid in holders(children_lock(empty_dir))
        assert process.stdin
        process.stdin.close()
    assert becomes_free(children_lock(empty_dir), patience=0)
    assert holders(children_lock(empty_dir)) == []
