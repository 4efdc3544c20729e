"""`manage.py` without a running database: a sentence where one is needed, nothing where not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

START = "Start it with `make run` in another terminal, or set DATABASE_URL or POSTGRES_HOST, and REDIS_URL."


def manage(local_dir: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LOCAL_DIR": str(local_dir)} | changes
    del environment["DEVELOPMENT"]
    return subprocess.run(
        [sys.executable, settings.BASE_DIR / "manage.py", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["migrate", "createsuperuser", "dumpdata", "clearsessions"])
def test_a_command_that_needs_the_database_says_how_to_start_it(empty_dir: Path, command: str) -> None:
    ran = manage(empty_dir, command, SECRET_KEY="a key")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == f"The database is not running. {START}"
    assert "Traceback" not in ran.stderr


def test_a_shell_says_so_and_works(empty_dir: Path) -> None:
    ran = manage(empty_dir, "shell", "-v", "0", "-c", "print(6 * 7)", SECRET_KEY="a key")
    assert (ran.stdout, ran.stderr) == ("42\n", f"The database is not running. {START}\n")


def test_a_missing_setting_is_a_sentence(empty_dir: Path) -> None:
    ran = manage(empty_dir, "migrate")
    assert ran.returncode == 1
    assert ran.stderr.startswith("SECRET_KEY is not set. ")
    assert ran.stderr.endswith(
        "In development this needs `make run` in another terminal, with the same LOCAL_DIR.\n"
    )


def test_what_a_server_refuses_is_said_without_advice_for_development(empty_dir: Path) -> None:
    ran = manage(empty_dir, "migrate", SECRET_KEY="a key", DEBUG="true")
    assert ran.returncode == 1
    assert ran.stderr == "DEBUG is on. It shows internals to visitors: remove it, or use `make run`.\n"


@pytest.mark.parametrize("arguments", [["check"], ["makemigrations", "--check", "--dry-run"], ["help"]])
def test_a_command_about_the_code_needs_nothing(empty_dir: Path, arguments: list[str]) -> None:
    ran = manage(empty_dir, *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
