"""The Celery side: one task, which a bell calls, and what a worker of `notifications` does at its start and end."""

import logging
import os
import threading
from functools import partial
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down
from django.conf import settings

from config.celery import app
from main.database import DATABASE_AWAY
from main.registry import load_flows
from main.sweeper import forever
from notifications import outbox
from notifications.models import QUEUE, TASK

logger = logging.getLogger(__name__)

# Seconds that a stopped worker's mails have to be sent, and after which it is gone, also where the database hangs.
GRACE = 2.0
EXIT_PATIENCE = 3.0

# Ends this worker, once it is told to stop; None in workers of other queues.
_closing: threading.Thread | None = None


@app.task(name=TASK)
def send(kind: str) -> None:
    """Answer a bell."""
    outbox.work()


@celeryd_after_setup.connect
def _load(instance: Any, **_: Any) -> None:
    """Learn the titles of flows. Mails go out without them as well."""
    global _closing
    if QUEUE not in instance.app.amqp.queues.consume_from:
        return
    _closing = threading.Thread(target=_hand_back_and_exit, name="closing")
    try:
        load_flows(["main.flows", *settings.FLOW_MODULES])
    except Exception:
        logger.exception("flows could not be loaded: mails name them by what they are called in the code")


@worker_ready.connect
def _begin(sender: Any, **_: Any) -> None:
    if _closing:
        outbox.workplace.capacity = sender.controller.concurrency
        sweep = partial(forever, outbox.sweep, outbox.SWEEP)
        threading.Thread(target=sweep, name="notifications", daemon=True).start()


@worker_shutting_down.connect
def _close(**_: Any) -> None:
    if _closing and not _closing.is_alive():
        _closing.start()


@worker_shutdown.connect
def _stay(**_: Any) -> None:
    """Keep the interpreter from ending under what is still being sent. Who never began has nothing to send."""
    if _closing and _closing.is_alive():
        _closing.join()


def _hand_back_and_exit() -> None:
    patience = threading.Timer(EXIT_PATIENCE, os._exit, [0])
    patience.daemon = True
    patience.start()
    try:
        outbox.close(GRACE)
    except DATABASE_AWAY:
        logger.warning("the database is away: leases will run out by themselves")
    except Exception:
        logger.exception("what was being sent could not be handed back")
    finally:
        os._exit(0)
