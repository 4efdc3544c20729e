"""docker-compose.yml: its commands are the development ones, and run for real, on the embedded databases."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
import yaml
from django.conf import settings

from config import embedded, servers
from config.processes import commands
from config.servers import Servers
from config.tests.waiting import wait_until
from main.tests.platform import free_port

TEXT = (settings.BASE_DIR / "docker-compose.yml").read_text()
DOCKERFILE = (settings.BASE_DIR / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
ENVIRONMENT = {"POSTGRES_PASSWORD": "unused", "CPU_CONCURRENCY": "1"}


def command(service: str) -> list[str]:
    return shlex.split(interpolated(SERVICES[service]["command"]))


def interpolated(text: str) -> str:
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?error} as compose does."""
    return re.sub(
        r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda found: ENVIRONMENT.get(found[1], found[2] or ""), text
    )


# What it says


def test_the_workers_are_called_as_in_development() -> None:
    expected = commands(bind="0.0.0.0:8000", web=1, io=32, cpu=1)
    assert command("worker-io") == expected["worker-io"]
    assert command("worker-cpu") == expected["worker-cpu"]
    assert command("worker-notifications") == expected["worker-notifications"]


def test_the_backend_migrates_and_then_serves_as_in_development() -> None:
    shell, flag, script = command("backend")
    assert (shell, flag) == ("sh", "-c")
    migrate, _, serve = script.partition(" && exec ")
    assert migrate == "python manage.py migrate --no-input"
    assert shlex.split(serve) == commands(bind="0.0.0.0:8000", web=1, io=32, cpu=1)["web"]


def test_the_image_serves_like_the_backend() -> None:
    serve = command("backend")[2].partition(" && ")[2]
    (found,) = re.findall(r'^CMD \["sh", "-c", "(.*)"\]$', DOCKERFILE, re.MULTILINE)
    assert interpolated(found) == serve


def test_the_image_is_built_in_stages_and_served_by_an_ordinary_user() -> None:
    *_, build, image = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    assert build.startswith("FROM python:3.12-slim AS packages\n")
    assert image.startswith("FROM python:3.12-slim\n")
    assert "COPY --from=packages /venv /venv\n" in image
    assert "pip install" not in image
    assert re.search(r"^RUN .*manage\.py collectstatic --noinput$", image, re.MULTILINE)
    assert re.findall(r"^(?:USER|CMD) *(\w*)", image, re.MULTILINE) == ["app", ""]
    assert re.search(r"^RUN useradd --uid [1-9]\d* .* app$", image, re.MULTILINE)


def test_the_image_is_healthy_as_the_backend_is() -> None:
    (found,) = re.findall(r"^HEALTHCHECK .* (CMD \[.*\])$", DOCKERFILE, re.MULTILINE)
    assert ["CMD", *json.loads(found.removeprefix("CMD "))] == SERVICES["backend"]["healthcheck"]["test"]


def test_postgresql_has_pgvector() -> None:
    assert SERVICES["postgres"]["image"].startswith("pgvector/pgvector:")


def test_every_service_has_a_health_check() -> None:
    assert all("healthcheck" in service for service in SERVICES.values())


def test_nothing_starts_before_what_it_needs_is_healthy() -> None:
    needed = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    healthy = {"condition": "service_healthy"}
    assert needed == {
        "backend": {"postgres": healthy, "redis": healthy},
        "worker-io": {"backend": healthy},
        "worker-cpu": {"backend": healthy},
        "worker-notifications": {"backend": healthy},
        "postgres": {},
        "redis": {},
    }


def test_one_env_file_serves_all() -> None:
    ours = ("backend", "worker-io", "worker-cpu", "worker-notifications")
    assert {SERVICES[name]["env_file"] for name in ours} == {".env"}
    named = set(re.findall(r"\$\{(\w+)", TEXT))
    example = (settings.BASE_DIR / ".env.example").read_text()
    assert named <= set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))


def test_the_data_outlives_the_containers() -> None:
    assert SERVICES["postgres"]["volumes"] == ["postgres-data:/var/lib/postgresql/data"]
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


# What it does


@contextmanager
def service(name: str, words: list[str], local_dir: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a service's command; it has to end well, within compose's patience, when it is stopped."""
    log = local_dir / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            env=environment,
            cwd=settings.BASE_DIR,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_services_run_and_become_healthy(empty_dir: Path) -> None:
    port = free_port()
    with (
        embedded.owned(empty_dir),
        Servers(empty_dir, database_name="api_ctm", redis=False),
        ExitStack() as stack,
    ):
        redis_url = f"unix://{empty_dir}/compose-redis.sock"
        environment = production_environment(empty_dir, redis_url)

        def run(name: str) -> None:
            words = [word.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for word in command(name)]
            stack.enter_context(service(name, words, empty_dir, environment))

        def is_healthy(name: str) -> bool:
            words = [word.replace("8000", str(port)) for word in SERVICES[name]["healthcheck"]["test"][1:]]
            return (
                subprocess.run(
                    words, env=environment, cwd=settings.BASE_DIR, capture_output=True, check=False
                ).returncode
                == 0
            )

        client = stack.enter_context(run_redis(empty_dir, redis_url, environment))
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        run("backend")
        wait_until(lambda: is_healthy("backend"), 30)
        assert not is_healthy("worker-io")
        run("worker-io")
        run("worker-cpu")
        run("worker-notifications")
        wait_until(lambda: is_healthy("worker-io"), 30)
        wait_until(lambda: is_healthy("worker-cpu"), 30)
        wait_until(lambda: is_healthy("worker-notifications"), 30)


def production_environment(local_dir: Path, redis_url: str) -> dict[str, str]:
    """Return what the containers have, with the embedded databases in the place of services."""
    database = embedded.database(local_dir, "api_ctm")
    return (
        os.environ
        | ENVIRONMENT
        | {
            "DEVELOPMENT": "false",
            "SECRET_KEY": "a-key-for-tests-that-is-long-enough-to-pass-every-check-7Qx",
            "ALLOWED_HOSTS": "example.com",
            "POSTGRES_HOST": database["HOST"],
            "POSTGRES_USER": database["USER"],
            "POSTGRES_DB": database["NAME"],
            "REDIS_URL": redis_url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
    )


@contextmanager
def run_redis(local_dir: Path, url: str, environment: dict[str, str]) -> Iterator["redis.Redis"]:
    own = ["--port", "0", "--unixsocket", url.removeprefix("unix://"), "--dir", str(local_dir)]
    words = [servers.find_redis(), *command("redis")[1:], *own]
    with (
        service("redis", words, local_dir, environment),
        redis.Redis.from_url(url, decode_responses=True) as client,
    ):
        wait_until(lambda: answers(client))
        yield client


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
