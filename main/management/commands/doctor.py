"""`manage.py doctor`: whether everything that the platform needs is there and does its work."""

import logging
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core import checks
from django.core.management import BaseCommand, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet, Sum
from django.db.models.functions import Now

from config import embedded
from main.database import DATABASE_AWAY
from main.models import Execution, WorkerBeat
from main.workers import SILENCE
from notifications.doctor import mail as mail_finding

# Seconds that are too many for work to wait for a worker.
WAITING = 30
FREE_BYTES = 1024**3


@dataclass(frozen=True)
class Finding:
    """What a check found; with `cure`, what to do, it is red."""

    text: str
    cure: str = ""


class Command(BaseCommand):
    help = "Say in one line each whether databases, workers, keys and settings are as they should be."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--worker",
            metavar="KIND",
            help="only whether this machine's io, cpu or notifications worker asks for work",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # its warnings say what our lines say
        kind = options["worker"]
        chosen = {f"worker {kind}": lambda: worker(kind, socket.gethostname())} if kind else CHECKS
        is_red = False
        for name, check in chosen.items():
            finding = examine(check)
            is_red |= bool(finding.cure)
            self.show(name, finding)
        if is_red:
            raise SystemExit(1)

    def show(self, name: str, finding: Finding) -> None:
        if finding.cure:
            self.stdout.write(self.style.ERROR(f"✗ {name}: {finding.text} {finding.cure}"))
        else:
            self.stdout.write(f"{self.style.SUCCESS('✓')} {name}: {finding.text}")


def examine(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except DATABASE_AWAY:
        return Finding(
            "PostgreSQL does not answer.", start_hint(embedded_database(), "DATABASE_URL or POSTGRES_HOST")
        )
    except redis.RedisError as error:
        return Finding(f"it does not answer ({error}).", start_hint(embedded_redis(), "REDIS_URL"))


def start_hint(is_embedded: bool, variables: str) -> str:
    return "Start it with `make run`." if is_embedded else f"Check that it runs, and {variables}."


def embedded_database() -> bool:
    return embedded.is_embedded(settings.DATABASES["default"], settings.LOCAL_DIR)


def embedded_redis() -> bool:
    return embedded.redis_url(settings.LOCAL_DIR) == settings.REDIS_URL


# Checks


def postgres() -> Finding:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        (version,) = cursor.fetchone() or ("",)
    return Finding(
        f"version {version}, {'embedded' if embedded_database() else connection.settings_dict['HOST']}."
    )


def migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = [migration for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    if missing:
        return Finding(f"{len(missing)} not applied, the first is {missing[0]}.", "Run `manage.py migrate`.")
    return Finding("all applied.")


def redis_server() -> Finding:
    server = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)
    version = server.info("server")["redis_version"]
    policy = server.info("memory").get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return Finding(
            f"version {version}, maxmemory-policy {policy}: it may forget events and bells.",
            "Set maxmemory-policy to noeviction.",
        )
    return Finding(f"version {version}, {'embedded' if embedded_redis() else 'from REDIS_URL'}, noeviction.")


def worker(kind: str, host: str = "") -> Finding:
    """Whether a worker of this kind asks the database for work, on this host only where one is given."""
    cure = f"Start one: the worker-{kind} service, or `make run`."
    beats = WorkerBeat.objects.filter(kind=kind)
    if host:
        beats = beats.filter(name__startswith=f"{host}/")
    age = ExpressionWrapper(Now() - F("beat_at"), DurationField())
    silence: timedelta | None = beats.order_by("-beat_at").values_list(age, flat=True).first()
    if silence is None:
        return Finding("none has asked for work.", cure)
    seconds = max(0, round(silence.total_seconds()))
    if seconds > SILENCE:
        return Finding(f"the last one asked for work {seconds} s ago.", cure)
    waiting = Execution.waiting(older_than=WAITING).get(kind, 0)
    if waiting and not host:
        return Finding(
            f"{waiting} executions have waited over {WAITING} s.", "Start more workers, or see their logs."
        )
    return Finding(f"asked for work {seconds} s ago.{stuck_threads(beats)}")


def stuck_threads(beats: QuerySet[WorkerBeat]) -> str:
    present = beats.filter(beat_at__gt=Now() - timedelta(seconds=SILENCE))
    places: dict[str, int] = present.aggregate(stuck=Sum("stuck", default=0), all=Sum("capacity", default=0))
    if not places["stuck"]:
        return ""
    return f" {places['stuck']} threads, for {places['all']} places, are stuck in calls that do not end."


def mail() -> Finding:
    return Finding(*mail_finding())


def gemini_key() -> Finding:
    if settings.CHAT_MODEL:
        return Finding(f"{settings.CHAT_MODEL} (CHAT_MODEL).")
    return Finding("Gemini." if settings.GEMINI_API_KEY else "no GEMINI_API_KEY: the demo model stands in.")


def tavily_key() -> Finding:
    return Finding("Tavily." if settings.TAVILY_API_KEY else "no TAVILY_API_KEY: the demo search stands in.")


def server_settings() -> Finding:
    if settings.DEVELOPMENT:
        return Finding("for development, on this machine only.")
    found = [found for found in checks.run_checks(include_deployment_checks=True) if not found.is_silenced()]
    if found:
        return Finding(found[0].msg, found[0].hint or "See `manage.py check --deploy`.")
    return Finding("safe for production.")


def disk() -> Finding:
    folder: Path = settings.LOCAL_DIR
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 1024**3:.1f} GiB free at {folder}."
    return Finding(text, "Make room." if free < FREE_BYTES else "")


CHECKS: dict[str, Callable[[], Finding]] = {
    "PostgreSQL": postgres,
    "Migrations": migrations,
    "Redis": redis_server,
    "Worker io": lambda: worker("io"),
    "Worker cpu": lambda: worker("cpu"),
    "Worker notifications": lambda: worker("notifications"),
    "Mail": mail,
    "Model": gemini_key,
    "Search": tavily_key,
    "Settings": server_settings,
    "Disk": disk,
}
