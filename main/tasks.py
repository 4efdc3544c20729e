"""The Celery side: one task, which a bell calls, and what a worker process does at its start and end."""

import gc
import importlib
import logging
import os
import signal
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

from celery.signals import celeryd_after_setup, worker_process_init, worker_ready, worker_shutting_down
from django.conf import settings

from config.celery import app
from main import bells, engine, sweeper
from main.chat_models import chat_model
from main.database import DATABASE_AWAY, with_database
from main.errors import FlowError
from main.leases import be_child_of, worker_prefix
from main.models import Execution
from main.registry import load_flows

logger = logging.getLogger(__name__)

# Seconds that a stopped worker's runs have to come to their next step.
GRACE = 2.0

# Read by the children of a prefork worker, and closed by their parent when it stops.
_parent_pipe: tuple[int, int] | None = None


@app.task(name=bells.TASK)
def work(kind: str) -> None:
    """Answer a bell."""
    engine.work(kind)


@celeryd_after_setup.connect
def _load(instance: Any, **_: Any) -> None:
    """Import what flows need before the first bell, in a prefork worker before the fork."""
    global _parent_pipe
    try:
        load_flows(["main.flows", *settings.FLOW_MODULES])
    except Exception as error:
        # Celery logs what a receiver raises and goes on; a worker without its flows would fail every execution.
        raise SystemExit("".join(traceback.format_exception(error))) from error
    queues = list(instance.app.amqp.queues.consume_from)
    engine.workplace.kind = queues[0]
    if _runs_in_threads(instance.pool_cls):
        threading.Thread(target=_warm_up, name="warm-up").start()
    else:
        importlib.import_module("main.tracing")
        _parent_pipe = os.pipe()
        gc.collect()
        gc.freeze()  # children then share these pages: no collection writes to them


@worker_ready.connect
def _open_threads(sender: Any, **_: Any) -> None:
    """Begin in a worker that runs flows in its own threads; the children of the others begin by themselves."""
    if _runs_in_threads(sender.controller.pool_cls):
        engine.workplace.capacity = sender.controller.concurrency
        sweeper.begin(give_up=engine.workplace.give_up)


def _runs_in_threads(pool: type) -> bool:
    return pool.__module__.endswith("thread")


def _warm_up() -> None:
    """Import and make what a first execution would wait for, while bells can already be heard."""
    importlib.import_module("main.tracing")
    try:
        chat_model()
    except FlowError as error:
        logger.warning("%s", error)
    gc.freeze()


@worker_process_init.connect
def _open_child(**_: Any) -> None:
    """Begin in a child of a prefork worker, which runs one flow at a time."""
    be_child_of(os.getppid())
    engine.workplace.capacity = 1
    sweeper.begin(give_up=_end_child)
    threading.Thread(target=_close_with_parent, name="closing", daemon=True).start()


def _close_with_parent() -> None:
    """Wait for the parent to close its end of the pipe, as it does when it stops."""
    assert _parent_pipe  # noqa: S101 — made before the fork
    reading, writing = _parent_pipe
    os.close(writing)
    os.read(reading, 1)
    engine.close()


def _end_child(thread: int) -> None:
    """End a child whose only run does not stop; the pool puts another in its place."""
    os._exit(1)


@worker_shutting_down.connect
def _close(**_: Any) -> None:
    threading.Thread(target=_hand_back_and_exit, name="closing").start()


def _hand_back_and_exit() -> None:
    """Let runs come to their next step, hand back the rest, and go. Celery would wait for their end."""
    try:
        engine.close()
        _close_children()
        _wait_for_runs(GRACE)
        _kill_children()  # before the hand-back: none shall claim again what was handed back
        for kind in with_database(lambda: Execution.hand_back_all(worker_prefix())):
            bells.ring_now(kind)
    except DATABASE_AWAY:
        logger.warning("the database is away: leases will run out by themselves")
    except Exception:
        logger.exception("the worker could not hand back what it ran")
    finally:
        try:
            _kill_children()
        finally:
            os._exit(0)


def _close_children() -> None:
    global _parent_pipe
    pipe, _parent_pipe = _parent_pipe, None
    if pipe:
        os.close(pipe[1])


def _wait_for_runs(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and with_database(lambda: Execution.is_any_held_by(worker_prefix())):
        time.sleep(0.1)


def _kill_children() -> None:
    from billiard import active_children

    for child in active_children():
        if child.pid:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(child.pid, signal.SIGKILL)
