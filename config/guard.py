"""Runs one command and ends it when whoever started it is gone.

    python -I -S guard.py LOCK SIGNAL GRACE IDENTITY COMMAND...

Standard input is the lifeline. The starter holds the other end of that pipe, and when it closes (on purpose,
or because the starter was killed) the command gets SIGNAL, and after GRACE seconds its whole process group
SIGKILL. Should the guard itself be killed, Linux sends SIGNAL to the command.

LOCK is a file that the command and everything it starts hold locked (shared) for as long as they live:
whoever gets it exclusively knows that nothing is left. IDENTITY is "same", "userns" (root outside, an
ordinary user in the command's own eyes) or "UID:GID".

It runs as a script, beside the project: standard library only, no threads, a few megabytes.
"""

import fcntl
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the real one is not worth its memory here
    from collections.abc import Callable

    LibcCall = Callable[..., None]

LIFELINE = 0
PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> int:
    lock, stop_name, grace, identity, *command = sys.argv[1:]
    stop = signal.Signals["SIG" + stop_name]
    lock_shared(lock)
    alarm = listen_to_signals()
    # Blocked until the command's own handlers stand, so that a stop which comes at once is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        become(command, identity, stop, guard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    return watch(pid, alarm, stop, float(grace))


def lock_shared(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)


def listen_to_signals() -> int:
    """Return a descriptor that becomes readable, with the signal's number, when a watched signal arrives."""
    alarm, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    for number in WATCHED:
        signal.signal(number, lambda *_: None)
    return alarm


def watch(pid: int, alarm: int, stop: signal.Signals, grace: float) -> int:
    """Wait for the command; return its exit code, 128 + n where signal n ended it."""
    ears = [LIFELINE, alarm]
    deadline: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            kill_group(pid)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        patience = None if deadline is None else max(0, deadline - time.monotonic())
        heard, _, _ = select.select(ears, [], [], patience)
        signals = os.read(alarm, 64) if alarm in heard else b""
        if deadline is None and (LIFELINE in heard or set(signals) - {signal.SIGCHLD}):
            os.kill(pid, stop)
            ears, deadline = [alarm], time.monotonic() + grace
        elif deadline is not None and time.monotonic() >= deadline:
            kill_group(pid)
            deadline += 0.1


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
        time.sleep(0.01)


def become(command: list[str], identity: str, stop: signal.Signals, guard: int) -> None:
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        call_libc = load_libc()  # before the identity changes: another user may not read Python's files
        take_identity(identity, call_libc)
        signal.set_wakeup_fd(-1)
        for number in (*WATCHED, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            call_libc("prctl", PR_SET_PDEATHSIG, stop, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        if os.getppid() == guard:  # otherwise it died before it could be watched
            os.execvp(command[0], command)  # noqa: S606
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"{command[0]} does not start: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def take_identity(identity: str, call_libc: "LibcCall") -> None:
    if identity == "userns":
        enter_user_namespace(call_libc)
    elif identity != "same":
        uid, gid = identity.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))


def enter_user_namespace(call_libc: "LibcCall") -> None:
    """From here on this process sees itself as user 1000, while to everyone else it still is who it was."""
    uid, gid = os.geteuid(), os.getegid()
    call_libc("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  pathlib is not worth its memory here
            file.write(text)


def load_libc() -> "LibcCall":
    """Return a function that calls a function of the C library, and raises its error."""
    import ctypes  # in the command's process only, which soon forgets it

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return call


if __name__ == "__main__":
    sys.exit(main())
