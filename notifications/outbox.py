"""Write what ends, and send what is due.

A bell wakes `work()`, which claims and sends until nothing is due. What nobody rang for is found by the sweep of
every notifications worker, which also renews the leases of what it is sending, and puts back what others left.
"""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from functools import partial

from django.conf import settings

from main.database import DATABASE_AWAY, with_database
from main.engine import Workplace
from main.leases import worker_name
from main.models import Execution, WorkerBeat
from notifications import models
from notifications.channels import NotSentError, PutOff, channels, open_channels
from notifications.letters import letter
from notifications.models import QUEUE, Delivery, Notification

logger = logging.getLogger(__name__)

SWEEP = 2.0
# Seconds for which the outcome of a try is kept where the database is away: without it the mail would be sent again.
RECORD_PATIENCE = 600.0

# What is written down of a try that ended in an error of ours.
STUMBLED = "It could not be sent. The server’s log says why."

workplace = Workplace(QUEUE, capacity=1)
# The claims that threads of this process are sending, by id and attempt.
_held: set[tuple[uuid.UUID, int]] = set()


def note_ends(executions: Sequence[Execution]) -> None:
    """Write what people want to be told of executions that have ended, in the transaction that ends them."""
    owned = [execution.id for execution in executions if execution.owner_id]
    if owned and Notification.write(owned):
        models.ring()


def work() -> int:
    """Claim and send until nothing is due, or at once where all places are taken; return how many were tried."""
    if not workplace.enter():
        return 0
    tried = 0
    claim = partial(Notification.claim_next, worker_name())
    try:
        while workplace.may_go_on and (found := with_database(lambda: claim(open_channels()))):
            deliver(found)
            tried += 1
    finally:
        for channel in channels().values():
            channel.close()
        workplace.leave()
    return tried


def deliver(notification: Notification) -> None:
    """Try once to send what was just claimed, and write down how that went; its lease is kept meanwhile."""
    claim = (notification.id, notification.attempt)
    _held.add(claim)
    try:
        _deliver(notification)
    finally:
        _held.discard(claim)  # whatever became of it: what nobody holds any more is taken back


def _deliver(notification: Notification) -> None:
    if note := with_database(partial(why_not, notification), patience=RECORD_PATIENCE):
        with_database(partial(notification.skip, note), patience=RECORD_PATIENCE)
        return
    began = time.monotonic()
    outcome, answer = _send(notification)
    seconds = time.monotonic() - began
    logger.info(
        "notification %s: %s in %.1f s, attempt %d", notification.id, outcome, seconds, notification.attempt
    )
    record = partial(notification.record, outcome, answer, seconds)
    with_database(record, patience=RECORD_PATIENCE)


def _send(notification: Notification) -> tuple[Delivery.Outcome, str]:
    try:
        written = with_database(partial(letter, notification))
        # What follows may take long, and holds no connection to the database.
        answer = channels()[notification.channel].send(notification, written)
    except NotSentError as error:
        is_put_off = isinstance(error, PutOff)
        return (Delivery.Outcome.PUT_OFF if is_put_off else Delivery.Outcome.REFUSED), str(error)
    except DATABASE_AWAY as error:  # while it was written
        return Delivery.Outcome.PUT_OFF, type(error).__name__
    except Exception:  # its text may say what is nobody's business but the server's
        logger.exception("notification %s could not be sent", notification.id)
        return Delivery.Outcome.PUT_OFF, STUMBLED
    return Delivery.Outcome.SENT, answer


def why_not(notification: Notification) -> str:
    """Return why its receiver is to be told nothing any more; "" where they are."""
    user = notification.user
    if not user.is_active or not user.email:
        return models.NO_ACCOUNT
    if models.Preference.of(user).unsubscribed_at:
        return models.UNSUBSCRIBED
    return ""


def sweep() -> None:
    """Do once what keeps the outbox's promises. All of it may be done by several workers at once."""
    with_database(lambda: WorkerBeat.beat(worker_name(), QUEUE, workplace.capacity))
    with_database(lambda: Notification.renew_leases(list(_held)))
    if taken_back := with_database(Notification.take_back):
        logger.warning("%d mails were left under way; they are tried again", taken_back)
    if workplace.free > 0 and with_database(lambda: Notification.is_any_due(open_channels())):
        threading.Thread(target=work, name="unrung", daemon=True).start()
    if days := settings.EXECUTION_RETENTION_DAYS:
        with_database(lambda: Notification.prune_digests(days))


def close(seconds: float) -> None:
    """Take no more, let what is under way be sent for some seconds, and hand the rest back."""
    workplace.closing = True
    until = time.monotonic() + seconds
    while workplace.is_busy and time.monotonic() < until:
        time.sleep(0.05)
    with_database(lambda: Notification.hand_back(worker_name()))
    with_database(lambda: WorkerBeat.sign_off(worker_name()))
