"""`manage.py dev`, which `make run` calls: the whole platform on this machine, from one command."""

import asyncio
import errno
import os
import secrets
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.db import connection

from accounts.models import User
from config import embedded
from config.processes import commands
from config.servers import Servers
from config.supervisor import STOPS, Supervisor, reachable, tell, watched

ADMIN = "admin@example.com"
BACKLOG = 2048  # gunicorn's own


class Command(BaseCommand):
    help = "Run everything for development: databases, web server and workers, restarted when code changes."
    requires_system_checks: list[str] = []  # `make lint` does them

    def handle(self, *_: Any, **__: Any) -> None:
        end_by_signals()
        try:
            with suppress(KeyboardInterrupt):
                run()
        except embedded.EmbeddedError as error:
            raise CommandError(str(error)) from error


def run() -> None:
    with embedded.owned(settings.LOCAL_DIR) as note_port, listen() as listener:
        note_port(listener.getsockname()[1])
        os.environ.setdefault("PUBLIC_URL", "http://{}:{}".format(*reachable(listener)))
        with embedded_servers() as servers:
            call_command("migrate", interactive=False, verbosity=0)
            create_first_admin()
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL has one
            asyncio.run(supervisor(servers, listener).run())
            ignore_signals()


def end_by_signals() -> None:
    """Have a signal end us as Ctrl-C does, but once: what cleans up is not to be interrupted."""

    def interrupt(*_: Any) -> NoReturn:
        ignore_signals()
        raise KeyboardInterrupt

    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, interrupt)


def ignore_signals() -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def supervisor(servers: Servers, listener: socket.socket) -> Supervisor:
    folders = watched(settings.BASE_DIR, settings.FLOW_MODULES)
    return Supervisor(child_commands(listener), listener, servers, settings.LOCAL_DIR, folders)


def embedded_servers() -> Servers:
    """Return the servers that settings leave to us."""
    local_dir, database = settings.LOCAL_DIR, settings.DATABASES["default"]
    return Servers(
        local_dir,
        database_name=database["NAME"] if embedded.is_embedded(database, local_dir) else None,
        redis=embedded.redis_url(local_dir) == settings.REDIS_URL,
    )


def child_commands(listener: socket.socket) -> dict[str, list[str]]:
    return commands(
        bind=f"fd://{listener.fileno()}",
        web=int(os.environ.get("WEB_CONCURRENCY") or 1),
        io=settings.IO_CONCURRENCY,
        cpu=settings.CPU_CONCURRENCY,
        notifications=settings.NOTIFICATION_CONCURRENCY,
    )


def create_first_admin() -> None:
    """Create an administrator where there is none yet, and print the password."""
    if User.objects.filter(is_superuser=True).exists():
        return
    password = secrets.token_urlsafe(12)
    # Said before it is done: were we interrupted in between, the next start would do and say it again.
    tell(f"Admin: {ADMIN}, password {password} (this is shown once)")
    User.objects.create_superuser(ADMIN, password)


def listen() -> socket.socket:
    """Listen on HOST and PORT, on a free port for 0; whoever connects early waits for the web server."""
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    if not port.isdigit() or int(port) > 65535:
        raise CommandError(f"PORT is {port!r}. It has to be a number up to 65535; 0 takes a free one.")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise CommandError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error
        raise CommandError(
            f"Port {port} is in use. Stop what uses it, or take another: PORT=8001 make run (0 takes any)."
        ) from error
    return listener
