"""The Celery app. Its workers run flows; its messages are bells (see main/tasks.py)."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("api_ctm")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
