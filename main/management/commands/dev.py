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
from config.supervisor import STOPS, Supervisor, watched

ADMIN = "admin@example.com"


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
    with embedded.owned(settings.LOCAL_DIR) as note_port:
        host, port = choose_address()
        note_port(port)
        with embedded_servers() as servers:
            call_command("migrate", interactive=False, verbosity=0)
            welcome = f"{create_first_admin()}Ready on {url(host, port)}"
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL has one
            asyncio.run(supervisor(servers, host, port).run(reachable(host), port, welcome))
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


def supervisor(servers: Servers, host: str, port: int) -> Supervisor:
    folders = watched(settings.BASE_DIR, settings.FLOW_MODULES)
    return Supervisor(child_commands(host, port), servers, settings.LOCAL_DIR, folders)


def embedded_servers() -> Servers:
    """Return the servers that settings leave to us."""
    local_dir, database = settings.LOCAL_DIR, settings.DATABASES["default"]
    return Servers(
        local_dir,
        database_name=database["NAME"] if embedded.is_embedded(database, local_dir) else None,
        redis=embedded.redis_url(local_dir) == settings.REDIS_URL,
    )


def child_commands(host: str, port: int) -> dict[str, list[str]]:
    return commands(
        bind=f"{bracketed(host)}:{port}",
        web=int(os.environ.get("WEB_CONCURRENCY") or 1),
        io=settings.IO_CONCURRENCY,
        cpu=settings.CPU_CONCURRENCY,
    )


def create_first_admin() -> str:
    """Create an administrator where there is none yet; return a line with the password, else nothing."""
    if User.objects.filter(is_superuser=True).exists():
        return ""
    password = secrets.token_urlsafe(12)
    User.objects.create_superuser(ADMIN, password)
    return f"Admin: {ADMIN}, password {password} (this is shown once)\n"


# Where we listen


def choose_address() -> tuple[str, int]:
    """Return HOST and PORT, with a free port for 0."""
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    if not port.isdigit() or int(port) > 65535:
        raise CommandError(f"PORT is {port!r}. It has to be a number up to 65535; 0 takes a free one.")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
            return host, probe.getsockname()[1]
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise CommandError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error
        raise CommandError(
            f"Port {port} is in use. Stop what uses it, or take another: PORT=8001 make run (0 takes any)."
        ) from error


def url(host: str, port: int) -> str:
    return f"http://{bracketed(reachable(host))}:{port}/"


def reachable(host: str) -> str:
    """Return an address to connect to, for one that means all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
