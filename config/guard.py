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
        take_identity(identity)
        signal.set_wakeup_fd(-1)
        for number in (*WATCHED, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        die_with(guard, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{command[0]} does not start: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def take_identity(identity: str) -> None:
    if identity == "userns":
        enter_user_namespace()
    elif identity != "same":
        uid, gid = identity.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))


def enter_user_namespace() -> None:
    """From here on this process sees itself as user 1000, while to everyone else it still is who it was."""
    uid, gid = os.geteuid(), os.getegid()
    call_libc("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  pathlib is not worth its memory here
            file.write(text)


def die_with(guard: int, stop: signal.Signals) -> None:
    if sys.platform == "linux":
        call_libc("prctl", PR_SET_PDEATHSIG, stop, 0, 0, 0)
        if os.getppid() != guard:  # it died before the line above
            os._exit(127)


def call_libc(name: str, *arguments: int) -> None:
    import ctypes  # only in the child, which soon forgets it

    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main())
