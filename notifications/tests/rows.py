"""Notifications that were tried, without a channel."""

from typing import Any

from accounts.models import User
from main.database import clock
from main.tests.rows import claimed
from notifications.models import Delivery, Notification

ANSWER = "550 5.1.1 <No such user>"


def tried(user: User, outcome: Delivery.Outcome = Delivery.Outcome.REFUSED, **fields: Any) -> Notification:
    """A notification of an execution that ended, and that was tried once; refused, it is a dead letter."""
    execution = claimed(owner=user, notify=True, **fields)
    execution.finish(result=1)
    Notification.objects.filter(execution=execution).update(
        state="SENDING", attempt=1, claimed_at=clock(), first_tried_at=clock()
    )
    notification = Notification.objects.get(execution=execution)
    assert notification.record(outcome, ANSWER, 0.12)
    notification.refresh_from_db()
    return notification
