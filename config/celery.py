"""The Celery app. Its workers run flows; its messages are bells (see main/bells.py).

Celery's own Django fixup is left out: it closes the process's connection pool around every task, under the
threads that keep the leases. Connections are given back by who used them (`database.with_database`).
"""

import os
from typing import Any

import django
from celery import Celery
from celery.signals import import_modules, setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("api_ctm", fixups=[])
app.config_from_object("django.conf:settings", namespace="CELERY")


@import_modules.connect
def _set_django_up(**_: Any) -> None:
    django.setup()


@setup_logging.connect
def _leave_logging_alone(**_: Any) -> None:
    """Django's set-up has applied LOGGING; Celery would put its own over it, unless somebody answers here."""


# After the set-up: both answer the same signal, in this order.
app.autodiscover_tasks(["main", "notifications"])
