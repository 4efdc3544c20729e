"""`manage.py dev`: one command from an empty folder to a running platform, and back to nothing."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from config import embedded, servers, supervisor
from config.embedded import becomes_free, children_lock
from config.supervisor import Watched, watched
from config.tests.development import Development
from config.tests.waiting import wait_until
from main import tasks
from main.tests.platform import Visitor, free_port

FLOW = '''
from main.registry import flow
from main.run import Run


@flow(title="{title}", public=True)
def greeting_flow(run: Run) -> str:
    """Says something."""
    return "{title}"
'''


@pytest.fixture(scope="module")
def development(shared_dir: Path) -> Iterator[Development]:
    with Development(shared_dir) as development:
        development.wait_until_ready()
        yield development


def assert_ends_well(development: Development, number: int) -> None:
    assert development.stop(number) < 5
    assert development.process.returncode == 0
    assert "Traceback" not in development.output
    assert_nothing_left(development.local_dir)


def assert_nothing_left(local_dir: Path) -> None:
    assert becomes_free(children_lock(local_dir), 0)
    assert not embedded.socket_dir(local_dir).exists()
    assert not embedded.is_running(local_dir)


# While it runs


def test_it_is_ready_when_the_first_request_has_succeeded(development: Development) -> None:
    assert development.get("/health/").status_code == 200


def test_the_printed_password_opens_the_admin(development: Development) -> None:
    password = development.wait_for(r"Admin: admin@example.com, password (\S+) \(this is shown once\)")[1]
    with httpx.Client(base_url=development.wait_until_ready(), follow_redirects=True) as browser:
        form = {"username": "admin@example.com", "password": password, "next": "/admin/"}
        token = {"csrfmiddlewaretoken": browser.get("/admin/login/").cookies["csrftoken"]}
        assert "admin@example.com" in browser.post("/admin/login/", data=form | token).text


def test_other_commands_find_the_databases(development: Development) -> None:
    code, output = development.manage("shell", "-c", "print(User.objects.get())")
    assert (code, output.splitlines()[-1]) == (0, "admin@example.com")
    assert development.manage("migrate", "--check")[0] == 0


def test_the_doctor_is_content(development: Development) -> None:
    development.wait_until_workers_ask()


def test_the_doctor_says_what_is_wrong(development: Development) -> None:
    name = f"nowhere-{development.local_dir.parent.name}"
    development.environment["REDIS_URL"] = f"unix:///tmp/{name}/redis.sock"
    try:
        code, output = development.manage("doctor")
    finally:
        del development.environment["REDIS_URL"]
    assert code == 1
    assert re.search(
        "^✗ Redis: it does not answer .* Check that it runs, and REDIS_URL.$", output, re.MULTILINE
    )


def test_a_second_one_on_the_same_folder_is_refused(development: Development) -> None:
    code, output = development.manage("dev")
    port = development.wait_until_ready().rpartition(":")[2]
    assert code == 1
    assert output.count("\n") == 1
    assert f"is in use by process {development.process.pid} on port {port}. Stop it, or set another" in output


def test_every_child_answers_to_its_name(development: Development) -> None:
    development.wait_for(r"(?m)^web +\| .*Listening at")


def test_a_worker_logs_what_it_runs(development: Development) -> None:
    with Visitor(development.wait_until_ready()) as visitor:
        task_id = visitor.start("poem_flow")
    development.wait_for(
        rf"worker-io +\| \S+ \S+ INFO main\.engine: execution {task_id}: poem_flow, attempt 1"
    )


def test_a_killed_child_comes_back(development: Development) -> None:
    development.wait_until_workers_ask()
    guards = psutil.Process(development.process.pid).children()
    (web,) = [guard for guard in guards if "config.asgi:application" in guard.cmdline()]
    web.children()[0].kill()
    development.wait_for(r"web .*Ended unexpectedly \(exit code 137\); it starts again in 0\.5 s")
    wait_until(lambda: is_served(development.wait_until_ready()), 30)


def is_served(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/").status_code == 200
    except httpx.TransportError:
        return False


# Its end


def test_a_signal_in_the_middle_of_the_start_leaves_nothing(empty_dir: Path) -> None:
    with Development(empty_dir) as development:
        wait_until((empty_dir / "postgres").exists, 30)
        assert development.stop() < 5
        assert_nothing_left(empty_dir)


def test_a_web_server_that_does_not_start_says_so_and_starts_when_it_can(
    empty_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("def broken(:\n")
    port = str(free_port())
    with Development(empty_dir, PORT=port, FLOW_MODULES="broken", PYTHONPATH=str(tmp_path)) as development:
        development.wait_for("web .*Ended with an error")
        answer = httpx.get(f"http://127.0.0.1:{port}/")
        assert (answer.status_code, "says why" in answer.text) == (503, True)
        (tmp_path / "broken.py").write_text("")
        httpx.get(development.wait_until_ready()).raise_for_status()
        development.stop(signal.SIGINT)
        assert re.search(r"(?m)^Admin: admin@example\.com, password \S+ ", development.output)


def test_after_a_kill_everything_ends_by_itself_and_the_next_start_goes_on(empty_dir: Path) -> None:
    with Development(empty_dir) as first:
        first.wait_until_ready()
        first.process.kill()
        assert becomes_free(children_lock(empty_dir), 8)
    with Development(empty_dir) as second:
        second.wait_until_ready()
        assert "Admin:" not in second.output  # that was printed by the first
        assert_ends_well(second, signal.SIGINT)


def test_it_ends_in_time_while_executions_run(empty_dir: Path, tmp_path: Path) -> None:
    flows = {"FLOW_MODULES": "main.tests.engine_flows", "CPU_CONCURRENCY": "2"}
    with Development(empty_dir, **flows) as development, Visitor(development.wait_until_ready()) as visitor:
        started = [visitor.start("cpu_slow_flow", seconds=60) for _ in range(2)]
        started += [visitor.start("stubborn_flow", folder=str(tmp_path)) for _ in range(2)]
        wait_until(lambda: all(visitor.details(each)["state"] == "PROGRESS" for each in started), 30)
        assert_ends_well(development, signal.SIGTERM)


def test_what_does_not_end_by_itself_is_ended_a_second_before_the_limit() -> None:
    assert tasks.GRACE + 0.5 < supervisor.GRACE
    assert supervisor.GRACE + servers.STOP_PATIENCE <= 4


# Beside others


def test_two_run_side_by_side_and_one_ends_alone(development: Development, empty_dir: Path) -> None:
    with Development(empty_dir) as other:
        assert other.wait_until_ready() != development.wait_until_ready()
        assert other.get("/health/").status_code == development.get("/health/").status_code == 200
        assert_ends_well(other, signal.SIGTERM)
    assert development.get("/health/").status_code == 200


def test_a_port_in_use_is_one_sentence(empty_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = Development(empty_dir, PORT=str(port)).manage("dev")
    assert code == 1
    assert output.startswith(f"CommandError: Port {port} is in use. Stop what uses it, or take another: ")
    assert output.count("\n") == 1


def test_of_two_starts_on_one_port_the_second_is_refused(empty_dir: Path) -> None:
    port = str(free_port())
    with Development(empty_dir / "first", PORT=port):
        wait_until((empty_dir / "first" / "postgres.log").exists, 30)  # long before it is ready
        code, output = Development(empty_dir / "second", PORT=port).manage("dev")
        assert (code, output.count("\n")) == (1, 1)
        assert f"Port {port} is in use." in output


@pytest.mark.parametrize("port", ["http", "-1", "65536"])
def test_a_port_that_is_none_is_one_sentence(empty_dir: Path, port: str) -> None:
    code, output = Development(empty_dir, PORT=port).manage("dev")
    assert (code, output.count("\n")) == (1, 1)
    assert f"PORT is '{port}'. It has to be a number" in output


# Code that changes


def test_a_flow_that_is_written_meanwhile_is_served(empty_dir: Path, tmp_path: Path) -> None:
    package = tmp_path / "my_flows"
    package.mkdir()
    (package / "__init__.py").touch()
    with Development(empty_dir, FLOW_MODULES="my_flows", PYTHONPATH=str(tmp_path)) as development:
        development.wait_until_ready()
        module = package / "greeting.py"
        module.write_text(FLOW.format(title="Good morning"))
        wait_until(lambda: lists(development, "Good morning"), 30)

        module.write_text("def broken(:\n")
        development.wait_for(r"web .*SyntaxError")
        development.wait_for("web .*Ended with an error; it starts again when a file changes")

        module.write_text(FLOW.format(title="Good evening"))
        wait_until(lambda: lists(development, "Good evening"), 30)


def lists(development: Development, title: str) -> bool:
    try:
        return title in development.get("/flows/").text
    except httpx.TransportError:
        return False


def test_what_is_watched(tmp_path: Path) -> None:
    for name in ("main", ".venv", "env", ".git"):
        (tmp_path / name).mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "manage.py").touch()
    assert watched(tmp_path, ["no_such_package", "json", "config.tests.waiting"]) == Watched(
        trees=[tmp_path / "main", Path(json.__file__).parent], folders=[Path(__file__).parent]
    )
