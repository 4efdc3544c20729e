"""The Celery side: one task, which a bell calls, and what a worker process does at its start and end."""

import gc
import importlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import psutil
from billiard import active_children
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.asynpool import Worker as PoolWorker
from celery.signals import (
    celeryd_after_setup,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from django.conf import settings

from config.celery import app
from main import bells, descendants, engine, sweeper
from main.chat_models import chat_model
from main.confinement import Confinement, end_process
from main.database import DATABASE_AWAY, with_database
from main.errors import FlowError
from main.leases import CPU_STOP_PATIENCE, STOP_PATIENCE, be_child_of, worker_name, worker_prefix
from main.models import Execution, WorkerBeat
from main.registry import load_flows

logger = logging.getLogger(__name__)

# Seconds that a stopped worker's runs have to come to their next step.
GRACE = 2.0
# Seconds after which a stopped worker is gone, also where the database or Redis hang.
EXIT_PATIENCE = 4.0
# Which share of its places in stuck threads is too much for an io worker. They take memory, and threads of Celery's.
STUCK_SHARE = 0.5
# Seconds in which a child that ended is replaced.
REPLACEMENT = 0.5
# Seconds between two looks for orphans.
ORPHANS = 2.0

# Read by the children of a prefork worker, and closed by their parent when it stops.
_parent_pipe: tuple[int, int] | None = None
# Ends this worker, once it is told to stop.
_closing: threading.Thread | None = None


@app.task(name=bells.TASK)
def work(kind: str) -> None:
    """Answer a bell."""
    engine.work(kind)


@celeryd_after_setup.connect
def _load(instance: Any, **_: Any) -> None:
    """Import what flows need before the first bell, in a prefork worker before the fork."""
    global _parent_pipe
    queues = list(instance.app.amqp.queues.consume_from)
    if bells.task_of(queues[0]) != bells.TASK:  # another app's worker
        return
    try:
        load_flows(["main.flows", *settings.FLOW_MODULES])
    except Exception as error:
        # Celery logs what a receiver raises and goes on; a worker without its flows would fail every execution.
        raise SystemExit("".join(traceback.format_exception(error))) from error
    engine.workplace.kind = queues[0]
    if _runs_in_threads(instance.pool_cls):
        threading.Thread(target=_warm_up, name="warm-up").start()
    else:
        importlib.import_module("main.tracing")
        descendants.adopt()
        # Celery asks once when a child ends, mostly too early, and then every 5 s.
        AsynPool.timers = property(lambda pool: {pool.maintain_pool: REPLACEMENT})  # type: ignore[assignment, method-assign]
        PoolWorker.on_loop_start = _beginning_to_look(PoolWorker.on_loop_start)  # type: ignore[method-assign]
        _parent_pipe = os.pipe()
        gc.collect()
        gc.freeze()  # children then share these pages: no collection writes to them


@worker_ready.connect
def _open_threads(sender: Any, **_: Any) -> None:
    """Begin in a worker that runs flows in its own threads; the children of the others begin by themselves."""
    if not engine.workplace.kind:
        return
    if _runs_in_threads(sender.controller.pool_cls):
        engine.workplace.capacity = sender.controller.concurrency
        sweeper.begin(give_up=_give_up_thread, patience=STOP_PATIENCE)
    else:
        threading.Thread(target=_end_orphans_forever, name="orphans", daemon=True).start()


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
    descendants.adopt()
    engine.workplace.capacity = 1
    engine.workplace.confinement = Confinement(settings.CPU_MEMORY_MB)
    threading.Thread(target=_close_with_parent, name="closing", daemon=True).start()


def _beginning_to_look(begin: Callable[..., None]) -> Callable[..., None]:
    """Have a child look for work, also without a bell, as soon as it can answer SIGTERM.

    The pool has then just set its own answer, which ends the process under the flow.
    """

    def begin_to_look(*arguments: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, _leave)
        sweeper.begin(give_up=_end_child, patience=CPU_STOP_PATIENCE)
        begin(*arguments, **options)

    return begin_to_look


def _close_with_parent() -> None:
    """Wait for the parent to close its end of the pipe, as it does when it stops."""
    assert _parent_pipe  # noqa: S101 — made before the fork
    reading, writing = _parent_pipe
    os.close(writing)
    os.read(reading, 1)
    engine.close()


def _leave(*_: Any) -> None:
    """Answer SIGTERM in a child: to the flow that it interrupts nothing is said."""
    threading.Thread(target=_hand_back_and_leave, name="closing").start()


def _hand_back_and_leave() -> None:
    """Let this child's run come to its next step, or hand it back, and go; the pool puts another in its place."""
    try:
        engine.close()
        until = time.monotonic() + GRACE
        while engine.workplace.is_busy and time.monotonic() < until:
            time.sleep(0.05)
        if with_database(lambda: Execution.hand_back_all(f"{worker_name()}/")):
            bells.ring_now(engine.workplace.kind)
    except DATABASE_AWAY:
        logger.warning("the database is away: the lease will run out by itself")
    finally:
        end_process()


def _end_child(thread: int) -> None:
    """End a child whose only run does not stop; the pool puts another in its place."""
    end_process()


def _end_orphans_forever() -> None:
    """End what the children of a prefork worker leave behind that were killed: it has become ours."""
    strangers = set[psutil.Process]()
    while True:
        time.sleep(ORPHANS)
        try:
            strangers = _end_orphans(strangers)
        except Exception:
            logger.exception("orphans could not be ended")


def _end_orphans(seen: set[psutil.Process]) -> set[psutil.Process]:
    """End what was seen before, too; return what is seen now. A child that is just being made looks like a stranger."""
    known = {child.pid for child in active_children()}
    strangers = {process for process in psutil.Process().children() if process.pid not in known}
    for orphan in strangers & seen:
        if orphan.status() != psutil.STATUS_ZOMBIE:
            logger.warning(
                "process %d is ended: the child of this worker that started it is gone", orphan.pid
            )
        descendants.end_tree(orphan)
    return strangers


def _give_up_thread(thread: int) -> None:
    """Free the place of a thread that does not stop; where too many are stuck, have this worker started anew."""
    place = engine.workplace
    place.give_up(thread)
    logger.warning(
        "%d of %d threads of this worker are stuck in calls that do not end", place.stuck, place.capacity
    )
    if place.stuck > STUCK_SHARE * place.capacity:
        logger.warning(
            "too many threads are stuck: this worker hands back the rest and ends, to be started anew"
        )
        _hand_back_and_exit(code=1)


@worker_shutting_down.connect
def _close(**_: Any) -> None:
    global _closing
    if not engine.workplace.kind:
        return
    _closing = threading.Thread(target=_hand_back_and_exit, name="closing")
    _closing.start()


@worker_shutdown.connect
def _stay(**_: Any) -> None:
    """Keep the interpreter from ending under runs that still have some time: they could start no thread any more."""
    if _closing:
        _closing.join()


def _hand_back_and_exit(code: int = 0) -> None:
    """Let runs come to their next step, hand back the rest, and go. Celery would wait for their end."""
    patience = threading.Timer(EXIT_PATIENCE, _exit, [code])
    patience.daemon = True
    patience.start()
    try:
        engine.close()
        _close_children()
        _wait_for_runs(GRACE)
        descendants.kill()  # before the hand-back: no child shall claim again what was handed back
        handed_back = with_database(lambda: Execution.hand_back_all(worker_prefix()))
        with_database(lambda: WorkerBeat.sign_off(worker_prefix()))
        # Up to the first bell that nobody hears. Whatever its kind, other workers like this one take it.
        all(bells.ring_now(engine.workplace.kind) for _ in range(handed_back))
    except DATABASE_AWAY:
        logger.warning("the database is away: leases will run out by themselves")
    except Exception:
        logger.exception("the worker could not hand back what it ran")
    finally:
        patience.cancel()
        _exit(code)


def _exit(code: int) -> None:
    """End this process and all that it started, now."""
    try:
        descendants.kill()
    finally:
        os._exit(code)


def _close_children() -> None:
    global _parent_pipe
    pipe, _parent_pipe = _parent_pipe, None
    if pipe:
        os.close(pipe[1])


def _wait_for_runs(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and (
        engine.workplace.is_busy or with_database(lambda: Execution.is_any_held_by(worker_prefix()))
    ):
        time.sleep(0.1)
