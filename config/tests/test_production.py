"""A server with production settings, as a deployment starts it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.db import connection

from config.processes import commands
from config.tests.waiting import wait_until
from main.tests.platform import Process, free_port


@pytest.fixture
def environment(tmp_path: Path, django_db_setup: None) -> dict[str, str]:
    """Production settings on the session's databases; static files are collected into a temporary folder."""
    module = tmp_path / "production_settings.py"
    module.write_text(f"from config.settings import *\nSTATIC_ROOT = {str(tmp_path / 'static')!r}\n")
    database = connection.settings_dict
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": module.stem,
        "PYTHONPATH": str(tmp_path),
        "DEVELOPMENT": "false",
        "SECRET_KEY": "a-key-for-tests-that-is-long-enough-to-pass-every-check-7Qx",
        "ALLOWED_HOSTS": "127.0.0.1",
        "HTTPS": "false",
        "POSTGRES_HOST": database["HOST"],
        "POSTGRES_USER": database["USER"],
        "POSTGRES_DB": database["NAME"],
    }


@contextmanager
def server(environment: dict[str, str]) -> Iterator[httpx.Client]:
    port = free_port()
    line = commands(bind=f"127.0.0.1:{port}", web=1, io=1, cpu=1)["web"]
    process = Process("production", line, environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until(lambda: answers(client), 30)
            yield client
    finally:
        process.stop()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/").status_code == 200
    except httpx.TransportError:
        return False


def test_the_page_loads_modules_that_are_named_by_their_content(environment: dict[str, str]) -> None:
    collect = [sys.executable, "manage.py", "collectstatic", "--noinput"]
    subprocess.run(collect, env=environment, cwd=settings.BASE_DIR, check=True, capture_output=True)
    with server(environment) as client:
        page = client.get("/").raise_for_status().text
        (address,) = re.findall(r'src="(/static/js/app\.[0-9a-f]{12}\.js)"', page)
        module = client.get(address).raise_for_status()
        assert "immutable" in module.headers["Cache-Control"]
        imported = re.findall(r'from "\./(\w+\.[0-9a-f]{12}\.js)"', module.text)
        assert imported
        for name in imported:
            client.get(f"/static/js/{name}").raise_for_status()
