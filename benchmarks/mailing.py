"""What has to happen inside Django, in a process of its own: executions end whose owners want a mail.

    python -m benchmarks.mailing write|send|finish COUNT PORT

writes so many notifications at once, sends the newest of them once more by smtplib alone, or ends executions one after
the other; prints what it found as JSON.
"""

import os
import sys
import time
import uuid
from itertools import permutations
from statistics import median
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from main.models import Execution

# A kind that no worker asks for.
KIND = "bench"
# As many bells as a worker has places; the ends of so many would ring more.
BELLS = 4
RESULT = "A sentence of a result that somebody waits for. " * 20


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    what, count, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found = {"write": write, "send": send, "finish": finish}[what](count, port)
    sys.stdout.buffer.write(orjson.dumps(found))


def running(count: int, owner_id: uuid.UUID | None, notify: bool = True) -> "list[Execution]":
    """Store so many that run, of a user who wants mails or not, or of somebody without an account."""
    from main.models import Execution

    return list(
        Execution.objects.raw(
            "INSERT INTO main_execution (id, flow, kind, inputs, state, attempt, crashes, worker, time_limit, usage, "
            "chat_model, created_at, started_at, owner_id, owner_key, priority, turn, request_hash, notify) "
            "SELECT gen_random_uuid(), 'instant_flow', %s, '{}', 'RUNNING', 1, 0, 'bench/1/1', 60, '{}', '', "
            "clock_timestamp(), clock_timestamp(), %s, %s, 'normal', n, '', %s FROM generate_series(1, %s) AS n "
            "RETURNING *",
            [KIND, owner_id, owner_id or uuid.uuid4(), notify and owner_id is not None, count],
        )
    )


def new_owner() -> uuid.UUID:
    from benchmarks.prepare import new_users

    return new_users(1)[0].id


def write(count: int, port: int) -> dict[str, int]:
    """End so many with one commit, and ring."""
    from django.db import transaction

    from main import bells
    from main.models import Execution
    from notifications.models import QUEUE, Notification

    ids = [execution.id for execution in running(count, new_owner())]
    with transaction.atomic():
        ended = Execution.objects.filter(id__in=ids)
        ended.update(state=Execution.State.SUCCESS, result=RESULT, finished_at=ended[0].started_at)
        written = Notification.write(ids)
    for _ in range(BELLS):
        bells.ring_now(QUEUE)
    return {"written": written}


def send(count: int, port: int) -> dict[str, float]:
    """Send the newest over one kept connection, ready made; return how many that were in a second."""
    import smtplib

    from notifications.channels.email import composed
    from notifications.letters import letter
    from notifications.models import Notification

    newest = Notification.objects.select_related("user", "execution").order_by("-created_at")[:count]
    mails = [composed(each, letter(each)).message().as_bytes() for each in newest]
    address = newest[0].user.email
    with smtplib.SMTP("127.0.0.1", port) as connection:
        began = time.perf_counter()
        for mail in mails:
            connection.sendmail("from@example.com", [address], mail)
        return {"rate": len(mails) / (time.perf_counter() - began)}


def finish(count: int, port: int) -> dict[str, float]:
    """End so many of each kind in turn; return the milliseconds that the end of one takes.

    Their owner asked for a mail, or has an account and did not, or is a visitor.
    """
    kinds = {
        "asked": running(count, new_owner()),
        "unasked": running(count, new_owner(), notify=False),
        "visitor": running(count, None),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    orders = list(permutations(kinds))  # a bell is still being rung when the next one ends, whichever that is
    for turn in range(count):
        for name in orders[turn % len(orders)]:
            began = time.perf_counter()
            kinds[name][turn].finish(result=RESULT)
            found[name].append(1000 * (time.perf_counter() - began))
    return {name: median(each) for name, each in found.items()}


if __name__ == "__main__":
    main()
