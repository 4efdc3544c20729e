"""The databases that come with the project, seen from a folder (LOCAL_DIR): where they are and whose it is.

PostgreSQL and Redis (config/servers.py) keep their data in LOCAL_DIR and listen on unix sockets in a private
folder only. Two locks keep that data whole. LOCAL_DIR/lock is held by the one `manage.py dev`, or test
session, that owns the folder. LOCAL_DIR/children.lock is held by every process the owner starts: a new owner
first waits until it has that one alone, so that nothing of an earlier owner is still writing.

Settings import this module, therefore only the standard library is imported here.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

USER = "api_ctm"
PORT = "5432"  # a part of the socket's name, nothing listens on it
# A unix socket's path may have 107 bytes on Linux and 103 elsewhere.
LONGEST_SOCKET = 103
# Seconds that the children of a killed owner get to end: by themselves, when asked, when killed.
LEFTOVER_PATIENCE = 6.0
GUARD = Path(__file__).with_name("guard.py")


class EmbeddedError(Exception):
    """Why the embedded servers cannot be used, in a sentence that says what to do."""


# What settings ask


def database(local_dir: Path, name: str) -> dict[str, Any]:
    """Return the DATABASES entry of the embedded PostgreSQL, whether it runs or not."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": str(postgres_sockets(local_dir)),
        "PORT": PORT,
        "NAME": name,
        "USER": USER,
        "PASSWORD": "",
    }


def redis_url(local_dir: Path) -> str:
    return f"unix://{redis_socket(local_dir)}"


def is_embedded(entry: dict[str, Any], local_dir: Path) -> bool:
    """Whether this DATABASES entry is the embedded PostgreSQL."""
    return bool(entry["HOST"] == str(postgres_sockets(local_dir)))


def is_running(local_dir: Path) -> bool:
    """Whether a `manage.py dev` or a test session owns this folder now."""
    try:
        with (local_dir / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def port(local_dir: Path) -> int:
    """Return the port that the `manage.py dev` of this folder serves on, 0 where that is not known."""
    try:
        return int(json.loads((local_dir / "lock").read_text()).get("port") or 0)
    except (OSError, ValueError):
        return 0


def secret_key(local_dir: Path) -> str:
    """Return this folder's secret key, made on first need."""
    with usable(local_dir):
        descriptor = os.open(local_dir / "secret_key", os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            key = file.read() or secrets.token_urlsafe(64)
            file.seek(0)
            file.write(key)
        return key


# Where things are


def postgres_sockets(local_dir: Path) -> Path:
    return socket_dir(local_dir) / "postgres"


def redis_socket(local_dir: Path) -> Path:
    return socket_dir(local_dir) / "redis.sock"


def socket_dir(local_dir: Path) -> Path:
    """Return the private folder of the sockets: in LOCAL_DIR, or in /tmp where that is too long or odd."""
    preferred = local_dir / "run"
    longest = preferred / "postgres" / f".s.PGSQL.{PORT}"
    is_plain = re.fullmatch(r"[\w./+-]+", str(preferred), re.ASCII)
    if is_plain and len(os.fsencode(longest)) <= LONGEST_SOCKET:
        return preferred
    digest = hashlib.sha256(os.fsencode(local_dir)).hexdigest()[:16]
    # Not TMPDIR, which another terminal may have set differently.
    return Path(f"/tmp/api-ctm-{os.geteuid()}-{digest}")  # noqa: S108  see make_private


@contextmanager
def usable(local_dir: Path) -> Iterator[None]:
    """Make LOCAL_DIR, and name what is wrong where it, or something in it, cannot be used."""
    try:
        local_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EmbeddedError(
            f"{error.filename or local_dir}: {error.strerror}. Set LOCAL_DIR to a folder of your own."
        ) from error


def make_private(folder: Path) -> None:
    """Make a folder that only we can change, or refuse one that somebody else prepared."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedError(
            f"{folder} belongs to someone else. Remove it, or set LOCAL_DIR to a shorter path."
        )


# Whose it is


@contextmanager
def owned(local_dir: Path) -> Iterator[Callable[[int], None]]:
    """Own LOCAL_DIR for the length of the block, with nothing left of an earlier owner.

    Gives a function that notes the port we serve on, for a rival to read. Where LOCAL_DIR has an owner,
    EmbeddedError names its process and port.
    """
    with usable(local_dir):
        owner = local_dir.stat().st_uid
        if os.geteuid() == 0 != owner:  # root's files in it would lock that user out
            raise EmbeddedError(
                f"{local_dir} belongs to user {owner}. Run as that user, or set another LOCAL_DIR."
            )
        file = (local_dir / "lock").open("a+")
    with file:
        take(file, local_dir)
        write_owner(file)
        end_leftovers(local_dir)
        try:
            yield lambda port: write_owner(file, port)
        finally:
            file.truncate(0)


def take(file: IO[str], local_dir: Path) -> None:
    # Someone who merely asks is_running() has the lock for a moment, so one refusal does not count.
    deadline = time.monotonic() + 0.5
    while not lock_alone(file):
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"{describe_owner(file, local_dir)} Stop it, or set another LOCAL_DIR and PORT."
            )
        time.sleep(0.02)


def lock_alone(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_owner(file: IO[str], port: int | None = None) -> None:
    file.truncate(0)
    json.dump({"pid": os.getpid(), "port": port}, file)
    file.flush()


def describe_owner(file: IO[str], local_dir: Path) -> str:
    file.seek(0)
    try:
        owner = json.load(file)
    except ValueError:  # it is being written just now
        owner = {}
    process = f" by process {owner['pid']}" if owner.get("pid") else ""
    port = f" on port {owner['port']}" if owner.get("port") else ""
    return f"{local_dir} is in use{process}{port}."


def end_leftovers(local_dir: Path) -> None:
    """Wait until the children of a killed owner have ended by themselves, then make them."""
    path = children_lock(local_dir)
    if becomes_free(path, LEFTOVER_PATIENCE):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in holders(path):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if becomes_free(path, LEFTOVER_PATIENCE):
            return
    pids = ", ".join(str(pid) for pid in holders(path))
    raise EmbeddedError(f"Processes of an earlier run still use {local_dir}: {pids}. End them first.")


def children_lock(local_dir: Path) -> Path:
    return local_dir / "children.lock"


def becomes_free(path: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    with path.open("a") as file:
        while not lock_alone(file):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def holders(path: Path) -> list[int]:
    """Return the processes, other than this one, that have the file open."""
    if sys.platform == "linux":
        pids = {int(link.parts[2]) for link in Path("/proc").glob("[0-9]*/fd/*") if points_to(link, path)}
    else:
        listed = subprocess.run(["lsof", "-t", str(path)], capture_output=True, text=True, check=False)
        pids = {int(pid) for pid in listed.stdout.split()}
    return sorted(pids - {os.getpid()})


def points_to(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except OSError:
        return False


def guarded(
    command: list[str], local_dir: Path, *, stop: str = "TERM", grace: float, identity: str = "same"
) -> list[str]:
    """Return the command line that runs `command` under a guard (config/guard.py).

    Its standard input must be a pipe whose other end we keep. When that closes, the command gets `stop` and,
    after `grace` seconds, SIGKILL.
    """
    lock = str(children_lock(local_dir))
    return [sys.executable, "-I", "-S", str(GUARD), lock, stop, str(grace), identity, *command]
