"""Who is next: priorities by their share, owners in turns, limits that hold, and what waits for too long."""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from config.tests.waiting import wait_until
from main import queues, sweeper
from main.models import Entry, Execution, Step
from main.queues import Priority
from main.registry import FLOW_REGISTRY, Flow, FlowDefinitionError, flow
from main.tests.rows import KIND, at_once, claimed, step_record, waiting, without_sweepers

pytestmark = pytest.mark.django_db(transaction=True)

LOG: Any = {"type": "log", "step": "Ask", "n": 0, "message": "said"}
ALICE, BOB, CHARLIE = (uuid.uuid4() for _ in range(3))


@pytest.fixture(autouse=True)
def alone(transactional_db: None) -> Iterator[None]:
    with without_sweepers():
        yield


@pytest.fixture
def race_flow() -> Iterator[Callable[..., Flow]]:
    """Register flows of the kind that no worker asks for; they go with the test."""
    before = dict(FLOW_REGISTRY)

    def register(**options: Any) -> Flow:
        registered = Flow("race_flow", "Race", "", lambda: None, "", kind=KIND, **options)  # type: ignore[arg-type]
        FLOW_REGISTRY[registered.name] = registered
        return registered

    yield register
    FLOW_REGISTRY.clear()
    FLOW_REGISTRY.update(before)


def claim(draw: float | None = None) -> Execution | None:
    return Execution.claim_next(KIND, "bob/1/1", draw)


def owners_in_order() -> str:
    """Claim all that waits; return whose they were, in order."""
    names = {ALICE: "A", BOB: "B", CHARLIE: "C", queues.NOBODY: "-"}
    return "".join(names[found.owner_key] for found in iter(claim, None))


# Priorities


def test_a_start_waits_with_its_flows_priority_or_its_own(race_flow: Callable[..., Flow]) -> None:
    low = race_flow(priority="low")
    assert Execution.start(low, {}).priority == "low"
    assert Execution.start(low, {}, priority="high").priority == "high"


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.75, 0.77, 0.94, 0.96, 0.999999, 1.0])
def test_a_lot_finds_whatever_waits(draw: float) -> None:
    assert sorted(queues.in_order(draw)) == sorted(Priority.values)
    for priority in Priority.values:
        waiting(priority=priority)
        found = claim(draw)
        assert found
        assert found.priority == priority


def test_priorities_share_the_workers_by_weight() -> None:
    for priority in Priority.values:
        for _ in range(21):
            waiting(priority=priority)
    # Lots that are evenly spread: what chance gives on average.
    taken = Counter(found.priority for n in range(21) if (found := claim((n + 0.5) / 21)))
    assert taken == queues.SHARES


def test_what_one_priority_does_not_need_the_highest_of_the_others_gets() -> None:
    assert queues.in_order(0.0) == ["high", "normal", "low"]
    assert queues.in_order(0.85) == ["normal", "high", "low"]
    assert queues.in_order(0.99) == ["low", "high", "normal"]


def test_low_does_not_starve() -> None:
    """Without a lot chance decides: the odds against this test are 1 to 3 · 10^10."""
    waiting(priority="low")
    for _ in range(500):
        waiting(priority="high")
        found = claim()
        assert found
        if found.priority == "low":
            return
    pytest.fail("low never came")


# Turns


def start_many(race_flow: Flow, owner: uuid.UUID, count: int) -> None:
    for _ in range(count):
        Execution.start(race_flow, {}, visitor=owner)


def test_owners_take_turns(race_flow: Callable[..., Flow]) -> None:
    for owner, count in ((ALICE, 6), (BOB, 3), (CHARLIE, 1)):
        start_many(race_flow(), owner, count)
    assert owners_in_order() == "ABCABABAAA"


def test_a_thousand_of_one_delay_anothers_first_by_one_slot_at_most(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow()
    start_many(registered, ALICE, 1000)
    for _ in range(300):
        claim()
    start_many(registered, BOB, 2)
    assert "B" in owners_in_order()[:2]


def test_who_comes_often_does_not_hold_up_who_has_many(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow()
    start_many(registered, ALICE, 20)
    order = ""
    for _ in range(20):
        start_many(registered, BOB, 1)
        order += "A" if (found := claim()) and found.owner_key == ALICE else "B"
    assert order.count("A") == 10


def test_what_was_handed_back_goes_first_and_does_not_set_the_round(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow()
    start_many(registered, ALICE, 40)
    first = claim()
    for _ in range(30):
        claim()
    assert first
    first.hand_back()
    start_many(registered, BOB, 12)
    order = owners_in_order()
    assert order[0] == "A"
    assert (
        order[1:21].count("A") == 9
    )  # in turn with Bob's, who does not get all the rounds from the first on


def test_each_priority_has_its_own_turns(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow()
    start_many(registered, ALICE, 5)
    execution = Execution.start(registered, {}, visitor=ALICE, priority="low")
    assert Execution.objects.get(id=execution.id).turn == 0


# Limits


def test_a_flow_runs_no_more_than_its_limit_at_once(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow(concurrency=2)
    start_many(registered, ALICE, 3)
    other = waiting(turn=7)
    first, second = claim(), claim()
    assert first
    assert second
    assert claim() == other
    assert claim() is None
    first.finish()
    assert claim()
    assert claim() is None


def test_an_owner_runs_no_more_than_the_limit_at_once(
    race_flow: Callable[..., Flow], settings: LazySettings
) -> None:
    settings.OWNER_CONCURRENCY = 2
    registered = race_flow()
    start_many(registered, ALICE, 4)
    start_many(registered, BOB, 1)
    assert owners_in_order() == "ABA"
    Execution.objects.filter(state="RUNNING", owner_key=ALICE)[0].cancel()
    assert owners_in_order() == "A"


def test_a_limit_holds_when_all_claim_at_once(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow(concurrency=3)
    for _ in range(5):
        start_many(registered, ALICE, 12)
        taken = at_once(*[claim] * 6)
        assert sorted(type(found).__name__ for found in taken) == ["Execution"] * 3 + ["NoneType"] * 3, taken
        Execution.objects.all().delete()


@pytest.mark.parametrize("option", ["priority", "kind"])
def test_a_flow_with_an_unknown_choice_is_refused(option: str) -> None:
    def some_flow() -> None: ...

    with pytest.raises(FlowDefinitionError, match=f"has the {option} “urgent”; there are “.*” and “"):
        flow(**{option: "urgent"})(some_flow)  # type: ignore[arg-type]


# Waiting for too long


def test_what_waited_too_long_is_not_run(race_flow: Callable[..., Flow]) -> None:
    for priority, limit in queues.WAITING_LIMITS.items():
        execution = Execution.start(race_flow(), {}, priority=priority)
        found = Execution.objects.get(id=execution.id)
        assert found.expires_at
        assert abs(found.expires_at - found.created_at - timedelta(seconds=limit)) < timedelta(seconds=1)
    assert Execution.end_expired() == []
    Execution.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert claim() is None
    ended = Execution.end_expired()
    assert len(ended) == 3
    found = Execution.objects.get(id=ended[0].id)
    assert (found.state, found.contract_state, found.started_at) == ("FAILURE", "FAILURE", None)
    assert found.error == {
        "type": "expired",
        "message": "The execution waited for a worker longer than it may, and was not run.",
        "retryable": True,
    }


def test_what_has_begun_does_not_expire(race_flow: Callable[..., Flow]) -> None:
    Execution.start(race_flow(), {})
    execution = claim()
    assert execution
    execution.hand_back()
    assert Execution.objects.get(id=execution.id).expires_at is None
    assert claim() == execution


def test_of_a_claim_and_an_expiry_one_wins(race_flow: Callable[..., Flow]) -> None:
    registered = race_flow()
    for _ in range(10):
        Execution.start(registered, {})
        soon = datetime.now(UTC) + timedelta(milliseconds=random.randrange(20))  # noqa: S311
        Execution.objects.update(expires_at=soon)
        found, ended = at_once(claim, partial(end_after, soon))
        assert bool(found) != bool(ended)
        Execution.objects.all().delete()


def end_after(moment: datetime) -> list[Execution]:
    wait_until(lambda: datetime.now(UTC) > moment)
    return Execution.end_expired()


# Among ten thousand


def fill(owners: int) -> None:
    """Let ten thousand wait, of so many owners, in the three priorities."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO main_execution (id, flow, kind, inputs, state, attempt, crashes, worker, time_limit, usage, "
            "chat_model, created_at, owner_key, priority, turn, request_hash) "
            "SELECT gen_random_uuid(), 'count_flow', %s, '{}', CASE WHEN n <= 10000 THEN 'PENDING' ELSE 'SUCCESS' END, "
            "0, 0, '', 60, '{}', '', clock_timestamp(), lpad((n %% %s)::text, 32, '0')::uuid, "
            "(array['high', 'normal', 'low'])[1 + n %% 3], n / %s, '' FROM generate_series(1, 12000) AS n",
            [KIND, owners, owners],
        )
        cursor.execute("ANALYZE main_execution")


@pytest.mark.parametrize("owners", [1, 100, 10_000])
def test_a_claim_and_a_start_among_ten_thousand_go_by_the_index(
    owners: int, race_flow: Callable[..., Flow]
) -> None:
    registered = race_flow()
    fill(owners)
    with CaptureQueriesContext(connection) as captured:
        claim()
        Execution.start(registered, {}, visitor=ALICE)
    for query, indexes in zip(
        captured.captured_queries,
        [{"execution_waiting"}, {"execution_waiting", "execution_turns"}],
        strict=True,
    ):
        nodes = list(plan_nodes(query["sql"]))
        assert indexes <= {node.get("Index Name") for node in nodes}
        assert {node["Node Type"] for node in nodes} <= {
            "ModifyTable",
            "Index Scan",
            "Index Only Scan",
            "LockRows",
            "Limit",
            "Result",
        }


def test_a_claim_passes_by_an_owner_who_has_enough(settings: LazySettings) -> None:
    settings.OWNER_CONCURRENCY = 1
    fill(1)
    assert claim()
    waiting(owner_key=BOB, turn=20_000)
    found = claim()
    assert found
    assert found.owner_key == BOB
    assert claim() is None


def plan_nodes(sql: str) -> Iterator[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
        [plans] = cursor.fetchone()
    waiting_nodes = [plans[0]["Plan"]]
    while waiting_nodes:
        node = waiting_nodes.pop()
        yield node
        waiting_nodes += node.get("Plans", ())


# Retention


def test_what_ended_long_ago_is_deleted_with_all_it_has() -> None:
    old, recent, running = claimed(), claimed(), claimed()
    for execution in (old, recent):
        Step.record(execution, step_record(entries=[(1, LOG)]))
        execution.finish()
    link = waiting(origin=old)
    Execution.objects.filter(id=old.id).update(finished_at=datetime.now(UTC) - timedelta(days=90, seconds=1))
    Execution.objects.filter(id=recent.id).update(finished_at=datetime.now(UTC) - timedelta(days=89))
    assert Execution.prune(90, most=10) == 1
    assert set(Execution.objects.all()) == {recent, running, link}
    assert (Step.objects.get().execution_id, Entry.objects.get().execution_id) == (recent.id, recent.id)


def test_it_is_deleted_in_batches_the_oldest_first() -> None:
    for days in (100, 300, 200):
        claimed().finish()
        Execution.objects.filter(finished_at__gt=datetime.now(UTC) - timedelta(days=1)).update(
            finished_at=datetime.now(UTC) - timedelta(days=days)
        )
    assert [Execution.prune(90, most=2) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(("days", "left"), [(90, 0), (0, 1)])
def test_a_sweep_deletes_what_is_old(settings: LazySettings, days: int, left: int) -> None:
    settings.EXECUTION_RETENTION_DAYS = days
    claimed().finish()
    Execution.objects.update(finished_at=datetime.now(UTC) - timedelta(days=91))
    sweeper.prune()
    assert Execution.objects.count() == left


# After a crash


def test_what_comes_back_goes_before_whoever_comes_anew(race_flow: Callable[..., Flow]) -> None:
    """Also where its own round was late, and those of today begin at the first again."""
    registered = race_flow()
    start_many(registered, ALICE, 30)
    claims = [claim() for _ in range(30)]
    back = [execution for execution in claims[-2:] if execution]
    back[0].hand_back()
    Execution.objects.filter(id=back[1].id).update(lease_until=datetime.now(UTC) - timedelta(seconds=1))
    Execution.take_back()
    for _ in range(5):
        start_many(registered, uuid.uuid4(), 1)
    assert {claim(), claim()} == set(back)


def test_a_suspect_runs_in_a_process_of_its_own() -> None:
    """Its next crash would end it, so nothing that runs beside it shall be able to cause that."""
    with transaction.atomic():  # that no worker of a running platform sees
        suspect, other = waiting(kind="io", crashes=queues.SUSPECT), waiting(kind="io", crashes=1)
        assert Execution.waiting() == {"cpu": 1, "io": 1}
        assert Execution.claim_next("io", "bob/1/1") == other
        assert Execution.claim_next("io", "bob/1/1") is None
        assert Execution.claim_next("cpu", "bob/1/2") == suspect
        assert Execution.claim_next("cpu", "bob/1/2") is None
        transaction.set_rollback(True)
