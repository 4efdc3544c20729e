"""The embedded databases lose nothing, disturb nobody, and always start again."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from config import embedded, servers
from config.embedded import EmbeddedError, becomes_free, children_lock, holders
from config.servers import Servers
from config.tests.waiting import wait_until

# A program that owns a folder and runs its servers until its standard input ends.
OWNER = """
import sys
from pathlib import Path
from config import embedded
from config.servers import Servers

folder = Path(sys.argv[1])
with embedded.owned(folder) as note_port, Servers(folder, database_name="api_ctm"):
    note_port(8123)
    print("up", flush=True)
    sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def local_dir(shared_dir: Path) -> Path:
    """A LOCAL_DIR that was used before: a first start takes its time."""
    if not (shared_dir / "postgres").exists():
        with running(shared_dir):
            pass
    return shared_dir


@contextmanager
def running(local_dir: Path, *, redis: bool = True, durable: bool = False) -> Iterator[Servers]:
    with (
        embedded.owned(local_dir),
        Servers(local_dir, database_name="api_ctm", redis=redis, durable=durable) as both,
    ):
        yield both


@contextmanager
def owner(local_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the servers in another process, which a test may kill."""
    command = [sys.executable, "-c", OWNER, str(local_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def sql(local_dir: Path, statement: str) -> list[tuple[Any, ...]]:
    entry = embedded.database(local_dir, "api_ctm")
    with psycopg.connect(
        host=entry["HOST"], port=entry["PORT"], user=entry["USER"], dbname=entry["NAME"], autocommit=True
    ) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def redis_client(local_dir: Path) -> "redis.Redis":
    return redis.Redis.from_url(embedded.redis_url(local_dir), decode_responses=True)


def remember(local_dir: Path) -> None:
    sql(local_dir, "DROP TABLE IF EXISTS kept")
    sql(local_dir, "CREATE TABLE kept (word text)")
    sql(local_dir, "INSERT INTO kept VALUES ('in PostgreSQL')")
    with redis_client(local_dir) as client:
        client.set("kept", "in Redis")


def assert_remembered(local_dir: Path) -> None:
    assert sql(local_dir, "SELECT word FROM kept") == [("in PostgreSQL",)]
    with redis_client(local_dir) as client:
        assert client.get("kept") == "in Redis"


def postmaster(local_dir: Path) -> psutil.Process:
    return psutil.Process(int((local_dir / "postgres" / "postmaster.pid").read_text().split("\n")[0]))


# Ordinary days


def test_they_listen_on_private_sockets_only(local_dir: Path) -> None:
    with running(local_dir):
        for pid in holders(children_lock(local_dir)):
            assert psutil.Process(pid).net_connections(kind="inet") == []
        folder = embedded.socket_dir(local_dir)
        assert stat.S_IMODE(folder.stat().st_mode) & 0o066 == 0
        assert stat.S_IMODE(embedded.redis_socket(local_dir).stat().st_mode) == 0o700


def test_they_keep_what_they_are_told(local_dir: Path) -> None:
    with embedded.owned(local_dir), Servers(local_dir, database_name="api_ctm"):
        assert sql(local_dir, "SHOW fsync") == [("on",)]
        assert sql(local_dir, "SHOW synchronous_commit") == [("on",)]
        with redis_client(local_dir) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_text_is_unicode(empty_dir: Path) -> None:
    with running(empty_dir):
        assert sql(empty_dir, "SELECT lower('ÑANDÚ'), current_setting('server_encoding')") == [
            ("ñandú", "UTF8")
        ]


def test_nothing_is_left_after_a_stop(empty_dir: Path) -> None:
    with running(empty_dir):
        remember(empty_dir)
    assert becomes_free(children_lock(empty_dir), 0)
    assert not embedded.socket_dir(empty_dir).exists()
    with running(empty_dir):
        assert_remembered(empty_dir)


def test_two_folders_run_side_by_side(local_dir: Path) -> None:
    with running(local_dir), running(local_dir / "other"):
        remember(local_dir)
        assert sql(local_dir / "other", "SELECT to_regclass('kept')") == [(None,)]


@pytest.mark.parametrize("name", ["a" * 150, "with space, comma and ñ", "50%"])
def test_any_folder_name_works(empty_dir: Path, name: str) -> None:
    empty_dir.mkdir()
    with running(empty_dir / name):
        remember(empty_dir / name)
        assert_remembered(empty_dir / name)
    assert not embedded.socket_dir(empty_dir / name).exists()


def test_a_running_owner_is_seen(empty_dir: Path) -> None:
    assert not embedded.is_running(empty_dir)
    with embedded.owned(empty_dir):
        assert embedded.is_running(empty_dir)
    assert not embedded.is_running(empty_dir)


def test_only_what_is_asked_for_is_started(empty_dir: Path) -> None:
    with embedded.owned(empty_dir), Servers(empty_dir, database_name=None, redis=False):
        assert holders(children_lock(empty_dir)) == []


def test_a_server_that_died_is_started_again(local_dir: Path) -> None:
    with running(local_dir, durable=True) as both:
        remember(local_dir)
        postmaster(local_dir).kill()
        wait_until(both.revive)
        for server in both.servers:
            server.wait_until_ready()
        assert_remembered(local_dir)


# Bad days


def test_data_survives_a_kill_of_everything(local_dir: Path) -> None:
    with owner(local_dir) as process:
        remember(local_dir)
        process.kill()
        for pid in holders(children_lock(local_dir)):
            with suppress(ProcessLookupError):  # the guards are at it too
                os.kill(pid, signal.SIGKILL)
    with running(local_dir):
        assert_remembered(local_dir)


def test_the_servers_end_when_their_owner_is_killed(local_dir: Path) -> None:
    with owner(local_dir) as process:
        process.kill()
        assert becomes_free(children_lock(local_dir), 5)


def test_a_new_owner_waits_for_what_a_killed_one_left(local_dir: Path) -> None:
    with owner(local_dir) as process:
        remember(local_dir)
        process.kill()
        process.wait()
        with running(local_dir):
            assert_remembered(local_dir)


@on_linux
def test_orphans_that_do_not_end_are_made_to(local_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LEFTOVER_PATIENCE", 0.2)
    with owner(local_dir) as process:
        remember(local_dir)
        for guard in psutil.Process(process.pid).children():
            guard.suspend()  # so that it ends nothing
        process.kill()
        process.wait()
        with running(local_dir):
            assert_remembered(local_dir)


def test_a_second_owner_is_refused_with_process_and_port(local_dir: Path) -> None:
    with owner(local_dir) as process:
        expected = f"{local_dir} is in use by process {process.pid} on port 8123"
        with pytest.raises(EmbeddedError, match=expected), embedded.owned(local_dir):
            pass
        remember(local_dir)  # and the first goes on


@pytest.mark.parametrize("text", [f"{os.getpid()}\n", "", "nonsense\n"], ids=["foreign", "empty", "nonsense"])
def test_a_stale_pid_file_does_not_stop_a_start(local_dir: Path, text: str) -> None:
    with running(local_dir):
        remember(local_dir)
    (local_dir / "postgres" / "postmaster.pid").write_text(text)
    with running(local_dir):
        assert_remembered(local_dir)


def test_stale_sockets_do_not_stop_a_start(local_dir: Path) -> None:
    with running(local_dir):
        remember(local_dir)
    sockets = embedded.postgres_sockets(local_dir)
    sockets.mkdir(parents=True, mode=0o700)
    sockets.parent.chmod(0o700)
    for stale in (sockets / ".s.PGSQL.5432", embedded.redis_socket(local_dir)):
        stale.touch()
    (sockets / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    with running(local_dir):
        assert_remembered(local_dir)


def test_an_interrupted_first_start_is_begun_anew(empty_dir: Path) -> None:
    (empty_dir / "postgres.new").mkdir(parents=True)
    (empty_dir / "postgres.new" / "PG_VERSION").write_text("18\n")
    with running(empty_dir, redis=False):
        assert sql(empty_dir, "SELECT 1") == [(1,)]


def test_a_server_that_somebody_started_by_hand_is_refused(local_dir: Path, tmp_path: Path) -> None:
    with running(local_dir):
        remember(local_dir)
    data = local_dir / "postgres"
    binaries = servers.find_postgres(data)
    identity = servers.choose_identity(binaries, local_dir)
    postgres = [str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses=", "-k", str(local_dir)]
    by_hand = embedded.guarded(postgres, tmp_path, stop="INT", grace=5, identity=identity)
    with subprocess.Popen(by_hand, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        wait_until((data / "postmaster.pid").exists)
        pid = postmaster(local_dir).pid
        with (
            pytest.raises(EmbeddedError, match=f"Another PostgreSQL, process {pid}, runs on"),
            running(local_dir),
        ):
            pass
        assert process.stdin
        process.stdin.close()
    with running(local_dir):
        assert_remembered(local_dir)


def test_a_socket_folder_that_somebody_else_prepared_is_refused(empty_dir: Path, tmp_path: Path) -> None:
    empty_dir.mkdir()
    embedded.socket_dir(empty_dir).symlink_to(tmp_path)
    with pytest.raises(EmbeddedError, match="belongs to someone else"), running(empty_dir):
        pass
    embedded.socket_dir(empty_dir).unlink()


# Which servers


def test_servers_on_path_are_used_where_there_is_no_wheel(
    local_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = servers.find_postgres(tmp_path)
    monkeypatch.setenv("PATH", f"{wheel}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(servers.find_redis())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{wheel}")
    monkeypatch.setattr(servers, "package_folder", lambda _: tmp_path / "no-wheel")
    assert servers.find_postgres(tmp_path) == wheel
    assert servers.find_redis() == str(tmp_path / "bin" / "valkey-server")


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="none is installed")
def test_the_systems_own_postgresql_works(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "package_folder", lambda _: empty_dir / "no-wheel")
    with running(empty_dir, redis=False):
        assert sql(empty_dir, "SELECT lower('ÑANDÚ')") == [("ñandú",)]


def test_where_there_are_no_servers_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "postgres_folders", list)
    monkeypatch.setattr(servers, "package_folder", lambda _: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match="Install one, or set DATABASE_URL or POSTGRES_HOST"):
        servers.find_postgres(tmp_path)
    with pytest.raises(EmbeddedError, match="Install one, or set REDIS_URL"):
        servers.find_redis()


def test_data_of_another_version_is_left_alone(empty_dir: Path) -> None:
    (empty_dir / "postgres").mkdir(parents=True)
    (empty_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(EmbeddedError, match="was made by PostgreSQL 9, which is not here"),
        running(empty_dir),
    ):
        pass


def test_why_a_server_does_not_start_is_shown(local_dir: Path) -> None:
    changes = local_dir / "postgres" / "postgresql.auto.conf"
    changes.write_text("no_such_setting = on\n")
    try:
        with pytest.raises(EmbeddedError, match="no_such_setting"), running(local_dir):
            pass
    finally:
        changes.write_text("")


# Root


@as_root
def test_root_may_keep_its_data_where_nobody_else_may_enter(empty_dir: Path) -> None:
    assert stat.S_IMODE(empty_dir.parent.stat().st_mode) == 0o700
    with running(empty_dir):
        assert postmaster(empty_dir).uids().effective == 0  # seen from outside; inside it is user 1000
    assert {path.stat().st_uid for path in empty_dir.rglob("*")} == {0}
    assert stat.S_IMODE(empty_dir.parent.stat().st_mode) == 0o700


@as_root
def test_root_without_user_namespaces_uses_another_user(
    local_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(local_dir):
        remember(local_dir)
    local_dir.parent.chmod(0o755)
    monkeypatch.setattr(servers, "user_namespaces_work", lambda _: False)
    if servers.first_closed(servers.find_postgres(local_dir / "postgres"), servers.NOBODY):
        pytest.skip("the virtual environment is closed to others")
    with running(local_dir):
        assert_remembered(local_dir)
        assert postmaster(local_dir).uids().effective == servers.NOBODY
    monkeypatch.undo()
    with running(local_dir):
        assert_remembered(local_dir)
        assert (local_dir / "postgres").stat().st_uid == 0


@as_root
def test_root_with_no_way_says_what_to_do(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "user_namespaces_work", lambda _: False)
    expected = f"may not enter {empty_dir.parent}. Use an ordinary user, set LOCAL_DIR"
    monkeypatch.setattr(servers, "find_postgres", lambda _: Path(shutil.which("sh") or "/bin/sh").parent)
    with pytest.raises(EmbeddedError, match=expected), running(empty_dir):
        pass


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "local"
    for use in (lambda: embedded.secret_key(folder), embedded.owned(folder).__enter__):
        with pytest.raises(
            EmbeddedError, match=f"{folder}: Not a directory. Set LOCAL_DIR to a folder of your own"
        ):
            use()


@as_root
def test_root_leaves_the_folder_of_another_user_alone(empty_dir: Path) -> None:
    empty_dir.mkdir()
    os.chown(empty_dir, 1000, 1000)
    with pytest.raises(EmbeddedError, match="belongs to user 1000"), running(empty_dir):
        pass
    assert list(empty_dir.iterdir()) == []
    empty_dir.rmdir()


# The secret key


def test_the_secret_key_is_made_once_however_many_ask(empty_dir: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(embedded.secret_key, [empty_dir] * 32))
    assert len(keys) == 1
    assert len(keys.pop()) >= 64
    assert stat.S_IMODE((empty_dir / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in empty_dir.iterdir()] == ["secret_key"]
