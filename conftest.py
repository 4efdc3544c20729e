"""The test session: settings of its own, a real PostgreSQL and Redis in a folder that goes with it."""

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import setup_databases
from pytest_django.plugin import DjangoDbBlocker

from config import embedded
from config.servers import Servers

# Short, because the sockets are in it.
LOCAL_DIR = Path(tempfile.mkdtemp(prefix="api-ctm-test-", dir="/tmp"))
atexit.register(shutil.rmtree, LOCAL_DIR, ignore_errors=True)


def isolate_settings() -> None:
    """Forget what the developer's shell and `.env` say."""
    example = (Path(__file__).parent / ".env.example").read_text()
    for name in re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE):
        os.environ.pop(name, None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "ENV_FILE": os.devnull,
        "LOCAL_DIR": str(LOCAL_DIR),
        "DEVELOPMENT": "true",
    }


# Were the settings named in pyproject.toml, pytest-django would load them before this file is read.
isolate_settings()
django.setup()
# A running platform's workers use the tables that a test empties at its end. Who first waits for so long ends what
# waits for each other; after PostgreSQL's 1 s those are the workers, who try again.
settings.DATABASES["default"]["OPTIONS"]["options"] += " -c deadlock_timeout=10s"

# For all apps, once. Their conftests would each define them anew, and a session would have several.
pytest_plugins = ["main.tests.platform", "main.tests.browser"]


def pytest_configure(config: pytest.Config) -> None:
    """Let each process of pytest-xdist have settings, databases and a platform of its own, for the same reason."""
    if config.getoption("numprocesses", None):
        del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that use the platform after the others: its workers take what they find, and say that they are there.

    Files that use a browser come last, in them the tests that do: its event loop stays in this thread, and other
    tests need one of their own. pytest-xdist hands out whole files, in the order of their first tests.
    """
    with_platform, with_browser = (
        {item.path for item in items if uses(item, fixture)} for fixture in ("platform", "browser")
    )
    items.sort(
        key=lambda item: (item.path in with_browser, item.path in with_platform, uses(item, "browser"))
    )


def uses(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[Servers]:
    with embedded.owned(LOCAL_DIR), Servers(LOCAL_DIR, database_name="api_ctm", durable=False) as servers:
        yield servers


@pytest.fixture(scope="session")
def django_db_setup(
    servers: Servers, django_test_environment: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """Make the test database even where no test is marked, for the platform's processes."""
    with django_db_blocker.unblock():
        setup_databases(verbosity=0, interactive=False)


@pytest.fixture(autouse=True)
def unhurried(request: pytest.FixtureRequest) -> None:
    """Let a test that is one transaction be silent in it for as long as it likes (see the settings of DATABASES)."""
    marker = request.node.get_closest_marker("django_db")
    if marker and not marker.kwargs.get("transaction") and "transactional_db" not in request.fixturenames:
        request.getfixturevalue("db")
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = 0")
