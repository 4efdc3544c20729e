"""What has to happen inside Django, in a process of its own: a queue is filled, claims from it are timed.

    python -m benchmarks.queueing claims|enqueue COUNT TIMES

prints what it found as JSON.
"""

import os
import sys
import time
from statistics import median

import orjson

# A kind that no worker asks for.
KIND = "bench"
# Whose the waiting ones are: of one owner, of a hundred, each of its own.
OWNERS = {"one owner": 1, "100 owners": 100, "10,000 owners": 10_000}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    what, count, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.buffer.write(orjson.dumps(claims(count, times) if what == "claims" else enqueue(count)))


def enqueue(count: int) -> dict[str, int]:
    """Start so many at once, of a hundred owners, as views do; they are all there with one commit."""
    import uuid

    from django.db import transaction

    from main.models import Execution
    from main.registry import get_flow, load_flows

    load_flows(["benchmarks.flows"])
    owners = [uuid.uuid4() for _ in range(100)]
    with transaction.atomic():
        for number in range(count):
            Execution.start(get_flow("instant_flow"), {}, visitor=owners[number % 100])
    return {"started": count}


def claims(count: int, times: int) -> dict[str, dict[str, float]]:
    """Return by whose they are the milliseconds of a claim among so many, and of its bound."""
    from django.conf import settings

    figures = {}
    for name, owners in OWNERS.items():
        fill(count, owners)
        figures[name] = time_claims(times)
    fill(count // 2, 1)
    fill(count // 2, count, first_turn=count)
    settings.OWNER_CONCURRENCY = (
        1  # the first claim takes one owner to the limit: all others pass by half the queue
    )
    figures["half of them passed by"] = time_claims(times)
    return figures


def fill(count: int, owners: int, first_turn: int = 0) -> None:
    """Let so many wait, of so many owners who take turns."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO main_execution (id, flow, kind, inputs, state, attempt, crashes, worker, time_limit, usage, "
            "chat_model, created_at, owner_key, priority, turn, request_hash) "
            "SELECT gen_random_uuid(), 'instant_flow', %s, '{}', 'PENDING', 0, 0, '', 60, '{}', '', clock_timestamp(), "
            "lpad(((n %% %s) + %s)::text, 32, '0')::uuid, 'normal', %s + n / %s, '' FROM generate_series(1, %s) AS n",
            [KIND, owners, first_turn, first_turn, owners, count],
        )
        cursor.execute("ANALYZE main_execution")


def time_claims(times: int) -> dict[str, float]:
    """Time claims, in turn with what bounds them; the queue is empty afterwards."""
    from main.models import Execution

    Execution.claim_next(KIND, "bench/1/1")
    found, bounds = [], []
    for _ in range(times):
        began = time.perf_counter()
        execution = Execution.claim_next(KIND, "bench/1/1")
        found.append(time.perf_counter() - began)
        assert execution
        began = time.perf_counter()
        Execution.objects.filter(id=execution.id).update(worker="bench/1/2")
        bounds.append(time.perf_counter() - began)
    Execution.objects.filter(kind=KIND).delete()
    return {"claim": 1000 * median(found), "bound": 1000 * median(bounds)}


if __name__ == "__main__":
    main()
