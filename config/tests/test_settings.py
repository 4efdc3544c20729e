"""Settings: every one is explained, and a server does not start with an unsafe one."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from config import embedded
from main.chat_models import DEFAULT_GEMINI

EXAMPLE = (settings.BASE_DIR / ".env.example").read_text()
SAFE = {
    "SECRET_KEY": "a-key-for-tests-that-is-long-enough-to-pass-every-check-7Qx",
    "ALLOWED_HOSTS": "example.com",
    "DEVELOPMENT": "false",
    "DATABASE_URL": "django.db.backends.dummy://",
}


def python_files() -> list[Path]:
    folders = ("config", "accounts", "main", "notifications")
    found = [path for folder in folders for path in (settings.BASE_DIR / folder).rglob("*.py")]
    return [path for path in found if "tests" not in path.parts]


def names_read() -> set[str]:
    patterns = (r"env\.\w+\(\s*\"([A-Z_]+)\"", r"os\.environ(?:\.get\(|\[)\"([A-Z_]+)\"")
    return {
        name
        for path in python_files()
        for pattern in patterns
        for name in re.findall(pattern, path.read_text())
    } - {"DJANGO_SETTINGS_MODULE", "NO_COLOR"}


def load_settings(expression: str = "settings.ALLOWED_HOSTS", /, **changes: str | None) -> tuple[int, str]:
    """Import the settings in a process of their own; return its exit code and what it said last."""
    environment = os.environ | SAFE | {name: value for name, value in changes.items() if value is not None}
    for name in [name for name, value in changes.items() if value is None]:
        environment.pop(name, None)
    ran = subprocess.run(
        [sys.executable, "-c", f"from django.conf import settings; print({expression})"],
        env=environment,
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout.strip().splitlines()[-1]


# .env.example


def test_every_setting_is_in_the_example() -> None:
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    assert names_read() == named


def test_every_setting_in_the_example_is_explained() -> None:
    for paragraph in re.findall(r"((?:^#.*\n|^[A-Z_]+=.*\n)+)", EXAMPLE, re.MULTILINE):
        lines = paragraph.splitlines()
        if any("=" in line for line in lines):
            assert re.match(r"# \w", lines[0]), paragraph


def test_the_example_itself_works_for_development(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(EXAMPLE)
    assert load_settings(ENV_FILE=str(file), DEVELOPMENT="true", SECRET_KEY=None)[0] == 0


def test_the_example_with_every_default_written_out_works(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=[A-Z_]+=.)", "", EXAMPLE, flags=re.MULTILINE))
    assert load_settings(ENV_FILE=str(file), LOCAL_DIR=str(tmp_path)) == (0, "['example.com']")


def test_the_example_names_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=(?!CHAT_MODEL)[A-Z_]+=.)", "", EXAMPLE, flags=re.MULTILINE))
    names = re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE)
    shown = [*names, "DATABASES", "LOGGING", "SECURE_HSTS_SECONDS"]
    expression = f"[(name, str(getattr(settings, name, ''))) for name in {shown}]"
    changes = {"DATABASE_URL": None, "POSTGRES_HOST": "db", "ALLOWED_HOSTS": None}
    assert load_settings(expression, ENV_FILE=str(file), **changes) == load_settings(expression, **changes)
    assert f"\n#CHAT_MODEL=google_genai:{DEFAULT_GEMINI}\n" in EXAMPLE


def test_a_value_is_read_as_it_is() -> None:
    changes = {
        "SECRET_KEY": "$HOME",
        "POSTGRES_PASSWORD": r"$x\$y$",
        "POSTGRES_HOST": "db",
        "DATABASE_URL": None,
    }
    assert load_settings("settings.SECRET_KEY, settings.DATABASES['default']['PASSWORD']", **changes) == (
        0,
        r"$HOME $x\$y$",
    )


# What a server refuses


def test_a_server_with_safe_settings_starts() -> None:
    assert load_settings() == (0, "['example.com']")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"SECRET_KEY": None}, "SECRET_KEY is not set."),
        ({"SECRET_KEY": ""}, "SECRET_KEY is not set."),
        ({"DEBUG": "true"}, "DEBUG is on."),
        ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS is a wildcard."),
        ({"ALLOWED_HOSTS": "example.com,*"}, "ALLOWED_HOSTS is a wildcard."),
    ],
)
def test_a_server_refuses_an_unsafe_setting(change: dict[str, str | None], sentence: str) -> None:
    code, said = load_settings(**change)
    assert code == 1
    assert said.startswith(f"django.core.exceptions.ImproperlyConfigured: {sentence}")


def test_it_is_a_server_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    changes = {"DEVELOPMENT": None, "LOCAL_DIR": str(tmp_path)}
    assert load_settings("settings.DEVELOPMENT, settings.HTTPS", **changes) == (0, "False True")


def test_a_server_started_by_hand_beside_a_running_development_stays_one(empty_dir: Path) -> None:
    changes = {"DEVELOPMENT": None, "LOCAL_DIR": str(empty_dir)}
    with embedded.owned(empty_dir):
        assert load_settings("settings.DEVELOPMENT", **changes) == (0, "False")


def test_a_server_passes_djangos_own_deployment_check() -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        env=os.environ | SAFE,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


# Where the databases are


@pytest.mark.parametrize(
    ("change", "host"),
    [
        ({}, "'/srv/x/run/postgres'"),
        ({"POSTGRES_HOST": "db"}, "'db'"),
        ({"POSTGRES_HOST": "db", "DATABASE_URL": "postgres://user:secret@elsewhere/name"}, "'elsewhere'"),
    ],
)
def test_which_database_is_used(change: dict[str, str], host: str) -> None:
    options: dict[str, str | None] = {"DATABASE_URL": None, "LOCAL_DIR": "/srv/x", **change}
    assert load_settings("repr(settings.DATABASES['default']['HOST'])", **options) == (0, host)


def test_the_address_may_hold_options() -> None:
    address = (
        "postgres://user:secret@elsewhere/name?sslmode=require&connect_timeout=5&options=-c%20work_mem%3D8MB"
    )
    code, said = load_settings("settings.DATABASES['default']['OPTIONS']", DATABASE_URL=address)
    options = ast.literal_eval(said)
    assert (code, options["sslmode"], options["connect_timeout"]) == (0, "require", 5)
    assert options["pool"]["max_size"] == 10
    assert options["options"] == "-c idle_in_transaction_session_timeout=5000 -c work_mem=8MB"


@pytest.mark.parametrize(
    ("change", "url"),
    [({}, "unix:///srv/x/run/redis.sock"), ({"REDIS_URL": "redis://r:1/2"}, "redis://r:1/2")],
)
def test_which_redis_is_used(change: dict[str, str], url: str) -> None:
    assert load_settings("settings.REDIS_URL", LOCAL_DIR="/srv/x", **change) == (0, url)


# Mail


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://relay.example.com", "('relay.example.com', 25, '', '', False, False)"),
        (
            "smtp+tls://flows%40example.com:p%40ss%3A%2F%25@smtp.example.com:587",
            "('smtp.example.com', 587, 'flows@example.com', 'p@ss:/%', True, False)",
        ),
        ("smtp+tls://flows+x:a+b@[::1]", "('::1', 587, 'flows+x', 'a+b', True, False)"),
        ("smtp+tls://a%C3%B1o:%2B%23%3F%20x@h", "('h', 587, 'año', '+#? x', True, False)"),
        ("smtp+ssl://flows:x@h", "('h', 465, 'flows', 'x', False, True)"),
        (
            "smtp+ssl://flows:$ecret@smtp.example.com:465",
            "('smtp.example.com', 465, 'flows', '$ecret', False, True)",
        ),
    ],
)
def test_a_mail_server_is_one_address(url: str, expected: str) -> None:
    names = ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL")
    read = ", ".join(f"settings.EMAIL_{name}" for name in names)
    assert load_settings(f"({read})", EMAIL_URL=url) == (0, expected)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"EMAIL_URL": "https://smtp.example.com"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp.example.com"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp://"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp://smtp.example.com:"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp://smtp.example.com:65536"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp://[smtp.example.com"}, "EMAIL_URL"),
        ({"EMAIL_URL": "smtp://smtp.example.com?debug=true"}, "EMAIL_URL"),
        ({"EMAIL_SERVICE": "pigeon"}, "EMAIL_SERVICE"),
        ({"EMAIL_SERVICE": "Mailgun"}, "EMAIL_SERVICE"),
        ({"EMAIL_SERVICE": "base_requests"}, "EMAIL_SERVICE"),
        ({"EMAIL_SERVICE": "mail.gun"}, "EMAIL_SERVICE"),
        ({"PUBLIC_URL": "flows.example.com"}, "PUBLIC_URL"),
    ],
)
def test_a_setting_of_mail_that_cannot_be_is_named_at_start(
    changes: dict[str, str | None], name: str
) -> None:
    code, said = load_settings(**changes)
    assert code != 0
    assert said.startswith(f"django.core.exceptions.ImproperlyConfigured: {name} ")


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss", "pa ss"])
def test_a_mail_servers_password_is_never_said(password: str) -> None:
    code, said = load_settings(EMAIL_URL=f"smtp+tls://flows:{password}@smtp.example.com")
    assert code != 0
    assert "percent-encoded" in said
    assert "pa" not in said.replace("password", "")


def test_a_service_has_its_own_settings() -> None:
    changes = {
        "EMAIL_SERVICE": "mailgun",
        "ANYMAIL_MAILGUN_API_KEY": "a$key",
        "ANYMAIL_IGNORE_RECIPIENT_STATUS": "False",
        "EMAIL_TIMEOUT": "5",
    }
    read = "settings.EMAIL_BACKEND, sorted(settings.ANYMAIL.items())"
    expected = [("IGNORE_RECIPIENT_STATUS", False), ("MAILGUN_API_KEY", "a$key"), ("REQUESTS_TIMEOUT", 5)]
    assert load_settings(read, **changes) == (0, f"anymail.backends.mailgun.EmailBackend {expected}")


def test_links_in_mails_lead_to_the_first_host() -> None:
    assert load_settings("settings.PUBLIC_URL") == (0, "https://example.com")
    assert load_settings("settings.DEFAULT_FROM_EMAIL") == (0, "API-CTM <no-reply@example.com>")
    assert load_settings("settings.PUBLIC_URL", PUBLIC_URL="https://a.example.com/") == (
        0,
        "https://a.example.com",
    )
