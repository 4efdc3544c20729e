"""The outbox: what is written when executions end, who claims it, and what becomes of it."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from pytest_django import Settings

from accounts.models import User
from config.tests.waiting import wait_until
from main import bells, endings
from main.database import clock
from main.engine import Workplace
from main.events import ErrorDetail
from main.journal import Fenced
from main.leases import worker_name
from main.models import Execution
from main.tests.rows import at_once, claimed, in_thread, let_expire, waiting
from main.workers import WorkerBeat
from notifications import models, outbox
from notifications.channels import PutOff, Refused
from notifications.letters import Letter
from notifications.models import Delivery, Notification, Preference
from notifications.tests.conftest import Postbox

pytestmark = pytest.mark.django_db(transaction=True)

ERROR = ErrorDetail(type="flow", message="It did not work.", retryable=False)
State = Notification.State


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Bells that were rung; no worker of another test hears them."""
    heard: list[str] = []
    monkeypatch.setattr(bells, "ring", lambda kind, before=None: heard.append(kind))
    return heard


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch) -> Workplace:
    place = Workplace(models.QUEUE, capacity=2)
    monkeypatch.setattr(outbox, "workplace", place)
    return place


def ended(
    owner: User | None, *, seconds: float = 0, error: ErrorDetail | None = None, **fields: Any
) -> Execution:
    """An execution that has run for some seconds and ended."""
    execution = claimed(owner=owner, **fields)
    if seconds:
        began = clock() - timedelta(seconds=seconds)
        Execution.objects.filter(id=execution.id).update(started_at=began)
    execution.finish(result="Done.", error=error)
    return execution


def asked_for(owner: User, count: int = 1) -> list[Notification]:
    for _ in range(count):
        ended(owner, notify=True)
    return list(Notification.objects.filter(user=owner))


def fresh(notification: Notification) -> Notification:
    return Notification.objects.get(id=notification.id)


def let_pass(hours: float = 0, **fields: Any) -> None:
    """Make what waits due, and first tries so many hours older."""
    Notification.objects.filter(state=State.PENDING).update(due_at=clock(), **fields)
    if hours:
        tried = Notification.objects.filter(first_tried_at__isnull=False)
        tried.update(first_tried_at=clock() - timedelta(hours=hours))


def claim(worker: str = "alice/1/1") -> Notification | None:
    return Notification.claim_next(worker, ["email"])


# What is written


def reason_for(owner: User | None, **how: Any) -> str | None:
    return Notification.objects.filter(execution=ended(owner, **how)).values_list("reason", flat=True).first()


def test_who_asked_is_told_of_any_end(alice: User, rung: list[str]) -> None:
    assert reason_for(alice, notify=True) == "asked"
    assert reason_for(alice, notify=True, error=ERROR) == "asked"
    assert rung == [models.QUEUE] * 2


def test_who_did_not_ask_is_told_nothing(alice: User, rung: list[str]) -> None:
    assert reason_for(alice, error=ERROR, seconds=100_000) is None
    assert rung == []


def test_a_visitor_is_told_nothing() -> None:
    assert reason_for(None, notify=True) is None


@pytest.mark.parametrize(
    ("mode", "how", "reason"),
    [
        ("never", {"error": ERROR, "seconds": 1000}, None),
        ("failures", {"error": ERROR}, "failed"),
        ("failures", {"seconds": 1000}, None),
        ("long", {"seconds": 61}, "long"),
        ("long", {"seconds": 61, "error": ERROR}, "long"),
        ("long", {"seconds": 58}, None),
        ("long", {"seconds": 58, "notify": True}, "asked"),
    ],
)
def test_a_preference_says_what_is_told_without_asking(
    alice: User, mode: str, how: dict[str, Any], reason: str | None
) -> None:
    Preference.objects.create(user=alice, mode=mode)
    assert reason_for(alice, **how) == reason


def test_who_unsubscribed_or_has_no_access_is_told_nothing(alice: User, bob: User) -> None:
    Preference.objects.create(user=alice, mode="failures")
    Preference.unsubscribe(alice.id)
    User.objects.filter(id=bob.id).update(is_active=False)
    for user in (alice, bob):
        assert reason_for(user, notify=True, error=ERROR) is None


@pytest.mark.parametrize("end", ["cancel", "purge", "end_overdue", "end_poisonous", "end_expired"])
def test_every_end_from_outside_is_told_as_well(alice: User, end: str) -> None:
    past = clock() - timedelta(seconds=1)
    limits: dict[str, Any] = {"expires_at": past} if end == "end_expired" else {}
    execution = waiting(owner=alice, notify=True, **limits)
    if end in ("end_overdue", "end_poisonous"):
        execution = claimed_of(execution)
        Execution.objects.filter(id=execution.id).update(crashes=2, deadline=past)
        let_expire(execution)
    if end == "cancel":
        assert execution.cancel()
    elif end == "purge":
        assert len(Execution.purge(execution.kind, execution.priority, most=5)) == 1
    else:
        assert len(getattr(Execution, end)()) == 1
    assert Notification.objects.get(execution=execution).reason == "asked"


def claimed_of(execution: Execution) -> Execution:
    found = Execution.claim_next(execution.kind, "alice/1/1")
    assert found
    assert found.id == execution.id
    return found


def test_an_end_and_its_notification_are_stored_together(
    alice: User, monkeypatch: pytest.MonkeyPatch, rung: list[str]
) -> None:
    execution = claimed(owner=alice, notify=True)

    def fail(executions: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(endings, "_listeners", [*endings._listeners, fail])
    with pytest.raises(IntegrityError):
        execution.finish(result="Done.")
    assert Execution.objects.get().state == "RUNNING"
    assert not Notification.objects.exists()
    assert rung == []


def test_an_attempt_that_may_not_end_it_tells_nobody(alice: User) -> None:
    execution = claimed(owner=alice, notify=True)
    assert execution.cancel()
    with pytest.raises(Fenced):
        execution.finish(result="Done.")
    assert not execution.cancel()
    assert Notification.objects.count() == 1


def test_an_execution_is_written_down_once(alice: User) -> None:
    (notification,) = asked_for(alice)
    assert notification.execution_id
    assert Notification.write([notification.execution_id]) == 0


def test_to_ask_after_the_end_is_too_late(alice: User) -> None:
    execution = claimed(owner=alice)
    assert execution.ask_to_notify(True)
    execution.finish()
    assert Notification.objects.count() == 1
    assert not execution.ask_to_notify(True)


# Who watched


def test_who_watched_a_long_one_to_its_end_is_told_nothing(alice: User) -> None:
    Preference.objects.create(user=alice, mode="long")
    execution = ended(alice, seconds=100)
    assert claim() is None, "the page has some time to say so"
    assert Notification.note_watched(execution)
    let_pass()
    assert claim() is None
    assert Notification.objects.get().state == State.SKIPPED


def test_who_did_not_watch_a_long_one_is_told(alice: User, postbox: Postbox) -> None:
    Preference.objects.create(user=alice, mode="long")
    ended(alice, seconds=100)
    let_pass()
    assert outbox.work() == 1
    assert len(postbox.sent) == 1


def test_what_was_asked_for_is_sent_to_who_watched_as_well(alice: User) -> None:
    execution = ended(alice, notify=True)
    assert not Notification.note_watched(execution)


# Claiming


def test_no_two_workers_get_the_same(alice: User, settings: Settings) -> None:
    settings.MAILS_PER_RECEIVER = 0
    asked_for(alice, 5)
    found = at_once(*[claim] * 8)
    assert sorted(str(each.id) for each in found if each) == sorted(
        str(each.id) for each in Notification.objects.all()
    )


def test_what_is_sent_is_sent_once_and_written_down(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    assert outbox.work() == 1
    assert outbox.work() == 0
    (delivery,) = fresh(notification).deliveries.all()
    assert (delivery.attempt, delivery.outcome, delivery.answer) == (1, "sent", "250 OK")
    assert fresh(notification).state == State.SENT
    assert len(postbox.sent) == 1


def test_what_is_put_off_waits_longer_each_time_and_goes_through(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    postbox.errors = [PutOff("451 Later"), PutOff("451 Later"), None]
    waits = []
    for _ in range(2):
        assert outbox.work() == 1
        assert fresh(notification).state == State.PENDING
        assert outbox.work() == 0, "it is not due"
        waits.append(seconds_until_due(notification))
        let_pass()
    assert 29 < waits[0] < 38 < 59 < waits[1] < 76
    assert outbox.work() == 1
    outcomes = [each.outcome for each in fresh(notification).deliveries.all()]
    assert outcomes == ["put_off", "put_off", "sent"]
    assert len({notification.message_id, postbox.sent[0].message_id}) == 1


def seconds_until_due(notification: Notification) -> float:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM notifications_notification WHERE id = %s",
            [notification.id],
        )
        return float(cursor.fetchone()[0])


def test_pauses_have_an_end_and_are_not_all_the_same() -> None:
    pauses = {models.pause(attempt=60) for _ in range(20)}
    assert len(pauses) > 1
    assert all(models.LONGEST_PAUSE <= each <= models.LONGEST_PAUSE * 1.25 for each in pauses)


def test_what_is_refused_ends_at_once_as_a_dead_letter(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    postbox.errors = [Refused("550 No such user")]
    assert outbox.work() == 1
    assert fresh(notification).state == State.FAILED
    assert list(Notification.dead_letters()) == [notification]


def test_what_was_put_off_for_a_day_ends_as_a_dead_letter(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    postbox.errors = [PutOff("451 Later")] * 2
    outbox.work()
    let_pass(hours=23.9)
    outbox.work()
    assert fresh(notification).state == State.PENDING
    postbox.errors = [PutOff("451 Later")]
    let_pass(hours=24.1)
    outbox.work()
    assert fresh(notification).state == State.FAILED


def test_a_channel_that_stumbles_is_tried_again(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notification,) = asked_for(alice)

    def stumble(notification: Notification, letter: Letter) -> str:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(postbox, "send", stumble)
    assert outbox.work() == 1
    assert fresh(notification).state == State.PENDING
    assert fresh(notification).deliveries.get().answer == outbox.STUMBLED, (
        "whoever may see it learns nothing of the server"
    )


def test_without_a_mail_server_rows_wait_and_nothing_is_lost(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    postbox.missing = "there is none"
    assert outbox.work() == 0
    assert fresh(notification).state == State.PENDING
    postbox.missing = ""
    assert outbox.work() == 1


@pytest.mark.parametrize("change", ["unsubscribes", "is locked out"])
def test_who_is_gone_before_it_is_sent_is_told_nothing(alice: User, postbox: Postbox, change: str) -> None:
    (notification,) = asked_for(alice)
    found = claim()
    assert found
    if change == "unsubscribes":
        Preference.unsubscribe(alice.id)
    else:
        User.objects.update(is_active=False)
    outbox.deliver(Notification.objects.get(id=found.id))
    assert (fresh(notification).state, postbox.sent) == (State.SKIPPED, [])


def test_to_unsubscribe_withdraws_what_waits(alice: User, bob: User) -> None:
    (theirs,), (others,) = asked_for(alice), asked_for(bob)
    Preference.unsubscribe(alice.id)
    assert (fresh(theirs).state, fresh(others).state) == (State.SKIPPED, State.PENDING)


# Workers that die or stop


def test_what_a_dead_worker_was_sending_is_sent_by_another(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    dead = claim("dead/1/1")
    assert dead
    assert Notification.take_back() == 0, "its lease holds"
    Notification.objects.update(lease_until=clock() - timedelta(seconds=1))
    assert Notification.take_back() == 1
    assert outbox.work() == 1
    assert [each.outcome for each in fresh(notification).deliveries.all()] == ["unknown", "sent"]
    assert not dead.record(Delivery.Outcome.REFUSED, "550 No", 1.0), "it is not its any more"
    assert fresh(notification).state == State.SENT


def test_what_kills_its_workers_for_a_day_ends(alice: User) -> None:
    asked_for(alice)
    assert claim()
    long_ago = clock() - timedelta(hours=25)
    Notification.objects.update(lease_until=long_ago, first_tried_at=long_ago)
    assert Notification.take_back() == 1
    assert Notification.objects.get().state == State.FAILED


def test_a_lease_is_kept_while_its_worker_lives(alice: User) -> None:
    asked_for(alice)
    found = claim("alive/1/1")
    assert found
    Notification.objects.update(lease_until=clock() + timedelta(seconds=1))
    Notification.renew_leases([(found.id, found.attempt + 1)])
    assert not Notification.objects.filter(lease_until__gt=clock() + timedelta(seconds=10)).exists()
    Notification.renew_leases([(found.id, found.attempt)])
    assert Notification.objects.filter(lease_until__gt=clock() + timedelta(seconds=10)).exists()


def test_what_a_worker_of_the_same_name_left_is_not_kept(alice: User, postbox: Postbox) -> None:
    """Containers that are started anew have the host name and pids of those before."""
    (notification,) = asked_for(alice)
    assert claim(worker_name())
    Notification.objects.update(lease_until=clock() - timedelta(seconds=1))
    outbox.sweep()
    wait_until(lambda: fresh(notification).state == State.SENT)
    wait_until(lambda: not outbox.workplace.is_busy)


def test_the_lease_of_what_is_being_sent_is_renewed(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notification,) = asked_for(alice)
    release, began = hang(postbox, monkeypatch)
    worker = in_thread(outbox.work)
    wait_until(began)
    Notification.objects.update(lease_until=clock() - timedelta(seconds=1))
    outbox.sweep()
    assert fresh(notification).state == State.SENDING
    release()
    worker.result(5)
    assert fresh(notification).state == State.SENT


def test_a_database_that_is_away_for_a_moment_costs_no_mail(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notification,) = asked_for(alice)
    answers: list[Any] = [OperationalError("away"), ""]

    def why_not(notification: Notification) -> str:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(outbox, "why_not", why_not)
    assert outbox.work() == 1
    assert fresh(notification).state == State.SENT


def test_no_connection_is_held_while_a_mail_is_sent(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for(alice)
    held: list[object] = []

    def send(notification: Notification, letter: Letter) -> str:
        held.append(connection.connection)
        return "250 OK"

    monkeypatch.setattr(postbox, "send", send)
    assert outbox.work() == 1
    assert held == [None]


def test_two_sweepers_take_back_once(alice: User) -> None:
    asked_for(alice)
    assert claim()
    Notification.objects.update(lease_until=clock() - timedelta(seconds=1))
    assert sum(at_once(*[Notification.take_back] * 4)) == 1
    assert Delivery.objects.count() == 1


def test_a_stopping_worker_lets_what_is_under_way_be_sent(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notification, other) = asked_for(alice, 2)
    worker = in_thread(outbox.work)
    wait_until(lambda: fresh(notification).state == State.SENT and fresh(other).state == State.SENT)
    outbox.close(seconds=5)
    assert worker.result(5) == 2
    asked_for(alice)
    assert outbox.work() == 0, "it takes no more"


def test_a_stopping_worker_hands_back_what_hangs(
    alice: User, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notification,) = asked_for(alice)
    release, began = hang(postbox, monkeypatch)
    worker = in_thread(outbox.work)
    wait_until(began)
    outbox.close(seconds=0.1)
    assert fresh(notification).state == State.PENDING
    assert not WorkerBeat.objects.filter(name=worker_name()).exists()
    release()
    worker.result(5)
    assert fresh(notification).state == State.PENDING, "what it says afterwards changes nothing"


def hang(postbox: Postbox, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], None], Callable[[], bool]]:
    began, released = threading.Event(), threading.Event()

    def send(notification: Notification, letter: Letter) -> str:
        began.set()
        released.wait(10)
        return "250 OK"

    monkeypatch.setattr(postbox, "send", send)
    return released.set, began.is_set


def test_the_sweep_sends_what_nobody_rang_for(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    outbox.sweep()
    wait_until(lambda: fresh(notification).state == State.SENT)
    assert WorkerBeat.objects.get(name=worker_name()).kind == models.QUEUE
    wait_until(lambda: not outbox.workplace.is_busy)


# Bursts


def test_a_burst_is_one_digest(alice: User, postbox: Postbox, settings: Settings) -> None:
    settings.MAILS_PER_RECEIVER = 3
    members = asked_for(alice, 50)
    assert outbox.work() == 1
    (digest,) = postbox.sent
    assert digest.event == "digest"
    assert digest.members.count() == len(members) == 50
    assert {fresh(each).state for each in members} == {State.DIGESTED}
    assert fresh(digest).state == State.SENT


def test_what_trickles_in_is_sent_singly_up_to_the_limit_and_then_waits_for_a_digest(
    alice: User, bob: User, postbox: Postbox, settings: Settings
) -> None:
    settings.MAILS_PER_RECEIVER = 3
    for _ in range(3):
        ended(alice, notify=True)
        assert outbox.work() == 1
    for _ in range(5):
        ended(alice, notify=True)
        assert outbox.work() == 0
    asked_for(bob)
    assert outbox.work() == 1, "others do not wait for that"
    assert [each.user for each in postbox.sent] == [alice] * 3 + [bob]
    due = Notification.objects.filter(user=alice, state=State.PENDING).values_list("due_at", flat=True)
    first = (
        Notification.objects.filter(user=alice, state=State.SENT).earliest("first_tried_at").first_tried_at
    )
    assert first
    assert set(due) == {first + timedelta(seconds=settings.MAIL_PERIOD)}
    let_pass(hours=0.2)
    ended(alice, notify=True)
    assert outbox.work() == 1
    assert postbox.sent[-1].members.count() == 6


def test_workers_together_keep_to_the_limit(alice: User, settings: Settings) -> None:
    settings.MAILS_PER_RECEIVER = 2
    asked_for(alice, 2)
    at_once(*[claim] * 6)
    tried = Notification.objects.filter(first_tried_at__isnull=False)
    assert 1 <= tried.count() <= 2


def test_what_was_tried_is_tried_again_as_it_was(alice: User, postbox: Postbox, settings: Settings) -> None:
    """A retry under another Message-ID could not be told from another mail."""
    settings.MAILS_PER_RECEIVER = 3
    (notification,) = asked_for(alice)
    postbox.errors = [PutOff("451 Later")]
    outbox.work()
    asked_for(alice, 10)
    let_pass()
    assert outbox.work() == 2
    assert {each.event for each in postbox.sent} == {"ended", "digest"}
    assert fresh(notification).state == State.SENT


def test_a_digest_that_is_put_off_keeps_its_members(
    alice: User, postbox: Postbox, settings: Settings
) -> None:
    settings.MAILS_PER_RECEIVER = 1
    asked_for(alice, 4)
    postbox.errors = [PutOff("451 Later")]
    assert outbox.work() == 1
    digest = Notification.objects.get(event="digest")
    let_pass()
    assert outbox.work() == 1
    assert postbox.sent == [digest]
    assert postbox.sent[0].message_id == digest.message_id


# Again


def test_what_could_not_be_delivered_is_sent_again(alice: User, postbox: Postbox, rung: list[str]) -> None:
    (notification,) = asked_for(alice)
    postbox.errors = [Refused("550 No")]
    outbox.work()
    rung.clear()
    assert notification.send_again()
    assert not notification.send_again(), "it waits already"
    assert rung == [models.QUEUE]
    assert outbox.work() == 1
    assert fresh(notification).state == State.SENT


def test_what_is_sent_again_keeps_to_the_limit_as_well_one_by_one(
    alice: User, postbox: Postbox, settings: Settings
) -> None:
    settings.MAILS_PER_RECEIVER = 10
    notifications = asked_for(alice, 5)
    postbox.errors = [Refused("550 No")] * 5
    assert outbox.work() == 5
    settings.MAILS_PER_RECEIVER = 2
    assert all(each.send_again() for each in notifications)
    assert outbox.work() == 2
    assert Notification.objects.filter(state=State.PENDING, due_at__gt=clock()).count() == 3
    for expected in (2, 1):
        let_pass(hours=1)
        assert outbox.work() == expected
    assert sorted(each.message_id for each in postbox.sent) == sorted(
        each.message_id for each in notifications
    )


def test_a_dead_letter_is_dropped_once(alice: User, postbox: Postbox) -> None:
    (notification,) = asked_for(alice)
    postbox.errors = [Refused("550 No")]
    outbox.work()
    assert sorted(at_once(notification.settle, notification.settle)) == [False, True]
    assert not Notification.dead_letters().exists()


def test_what_is_old_goes_with_its_executions(alice: User, postbox: Postbox, settings: Settings) -> None:
    settings.MAILS_PER_RECEIVER = 1
    asked_for(alice, 3)
    outbox.work()
    long_ago = clock() - timedelta(days=91)
    Execution.objects.update(finished_at=long_ago)
    Notification.objects.update(finished_at=long_ago)
    assert Execution.prune(90, most=10) == 3
    Notification.prune_digests(90)
    assert not Notification.objects.exists()
    assert not Delivery.objects.exists()


@pytest.fixture(autouse=True)
def nothing_is_left_in_a_transaction() -> Iterator[None]:
    yield
    assert not transaction.get_connection().in_atomic_block
