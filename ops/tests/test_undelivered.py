"""Mails that could not be delivered are dead letters as executions are: one list, the same verbs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models import QuerySet
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from main import bells
from main.database import clock
from notifications.models import Delivery, Notification
from notifications.tests.rows import ANSWER, tried
from ops.tests.conftest import dead_letter

pytestmark = pytest.mark.django_db

ADDRESS = "/api/v1/ops/dead-letters"


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker of a running platform is woken."""
    monkeypatch.setattr(bells, "ring", lambda *_, **__: None)


def listed(client: Client, **query: str) -> list[dict[str, Any]]:
    response = client.get(ADDRESS, query)
    assert response.status_code == 200, response.content
    rows: list[dict[str, Any]] = response.json()["dead_letters"]
    return rows


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(f"{ADDRESS}/{path}", body or {}, content_type="application/json")


def letters() -> "QuerySet[Notification]":
    return Notification.dead_letters()


def test_it_says_to_whom_about_what_and_why(staff: Client, bob: User) -> None:
    notification = tried(bob)
    (row,) = listed(staff)
    assert datetime.fromisoformat(row.pop("created_at")) == notification.created_at
    assert datetime.fromisoformat(row.pop("finished_at")) == notification.finished_at
    assert row == {
        "type": "notification",
        "id": str(notification.id),
        "execution": str(notification.execution_id),
        "flow": "count_flow",
        "title": "Count",
        "owner": "bob@example.com",
        "channel": "email",
        "error": {"type": "delivery", "message": ANSWER, "retryable": False},
        "attempt": 1,
    }


def test_what_was_only_put_off_for_too_long_may_be_taken_later(staff: Client, bob: User) -> None:
    notification = tried(bob)
    Delivery.objects.filter(notification=notification).update(at=clock() - timedelta(hours=1))
    last = {"outcome": "put_off", "answer": "451 Later", "at": clock(), "seconds": 0.1}
    Delivery.objects.create(notification=notification, attempt=2, **last)
    (row,) = listed(staff)
    assert row["error"] == {"type": "delivery", "message": "451 Later", "retryable": True}


def test_a_digest_has_no_execution(staff: Client, bob: User) -> None:
    Notification.objects.create(
        user=bob, event="digest", channel="email", reason="many", state="FAILED", finished_at=clock()
    )
    (row,) = listed(staff)
    assert (row["title"], row["flow"], row["execution"]) == ("many executions ended", None, None)


@pytest.mark.parametrize(
    ("role", "status"),
    [("visitor", 403), ("user", 403), ("permitted user", 403), ("inactive staff", 403), ("staff", 200)],
)
@pytest.mark.parametrize("act", ["requeue", "drop"])
@pytest.mark.parametrize("many", [False, True])
def test_staff_act_on_mails(ask: Any, bob: User, role: str, status: int, act: str, many: bool) -> None:
    notification = tried(bob)
    path = f"{ADDRESS}/{act}" if many else f"{ADDRESS}/{notification.id}/{act}"
    assert ask(role, "POST", path, '{"filter": {"error": "delivery"}}' if many else "{}") == status
    assert letters().exists() is (status == 403)


def test_both_types_stand_in_one_list_page_by_page(staff: Client, bob: User) -> None:
    expected = []
    for number in range(6):
        letter: Any = tried(bob) if number % 2 else dead_letter(owner=bob)
        moment = clock() - timedelta(hours=number // 2)  # two of each time
        type(letter).objects.filter(id=letter.id).update(finished_at=moment)
        expected.append(str(letter.id))
    same = type(letter).objects.get(id=letter.id).finished_at
    dead_letter_of_that_time = dead_letter(owner=bob)
    type(dead_letter_of_that_time).objects.filter(id=dead_letter_of_that_time.id).update(finished_at=same)
    expected.append(str(dead_letter_of_that_time.id))
    seen, address = [], f"{ADDRESS}?limit=2"
    while address:
        page = staff.get(address).json()
        assert len(page["dead_letters"]) <= 2
        seen += [row["id"] for row in page["dead_letters"]]
        address = page["next"]
    assert sorted(seen) == sorted(expected)
    assert len(seen) == len(set(seen))
    assert seen == [row["id"] for row in listed(staff)]


def test_mails_cost_the_same_however_many_there_are(
    staff: Client, bob: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (2, 10):
        for _ in range(count):
            tried(bob)
        # Session, user, the executions, the mails.
        with django_assert_num_queries(4):
            assert len(listed(staff)) >= count


@pytest.mark.parametrize(
    ("query", "types"),
    [
        ({"type": "notification"}, ["notification"]),
        ({"type": "execution"}, ["execution"]),
        ({"error": "delivery"}, ["notification"]),
        ({"error": "unavailable"}, ["execution"]),
        ({"flow": "count_flow"}, ["execution", "notification"]),
        ({"flow": "gate_flow"}, []),
        ({"owner": "BOB@example.com"}, ["execution", "notification"]),
        ({"before": "2020-01-01T00:00:00Z"}, []),
    ],
)
def test_filters_hold_for_both(staff: Client, bob: User, query: dict[str, str], types: list[str]) -> None:
    dead_letter(owner=bob)
    tried(bob)
    assert sorted(row["type"] for row in listed(staff, **query)) == types


def test_an_unknown_type_is_refused(staff: Client) -> None:
    response = staff.get(ADDRESS, {"type": "mail"})
    assert (response.status_code, response.json()["error"]) == (
        400,
        "“type” is one of execution, notification.",
    )


def test_a_mail_is_sent_again_once(staff: Client, bob: User) -> None:
    notification = tried(bob)
    assert post(staff, f"{notification.id}/requeue").json() == {"id": str(notification.id)}
    assert post(staff, f"{notification.id}/requeue").status_code == 409
    notification.refresh_from_db()
    assert notification.state == "PENDING"
    assert listed(staff) == []


def test_a_mail_is_dropped_once(staff: Client, bob: User) -> None:
    notification = tried(bob)
    assert post(staff, f"{notification.id}/drop").status_code == 200
    assert post(staff, f"{notification.id}/drop").status_code == 409
    assert post(staff, f"{notification.id}/requeue").json()["error"]
    assert listed(staff) == []


@pytest.mark.parametrize("act", ["requeue", "drop"])
def test_many_of_both_types_at_once(staff: Client, bob: User, act: str) -> None:
    ids = [str(tried(bob).id), str(dead_letter(owner=bob).id)]
    answer = post(staff, act, {"ids": ids}).json()
    done = {"requeue": "requeued", "drop": "dropped"}[act]
    assert [row["id"] for row in answer[done]] == ids
    assert listed(staff) == []


def test_a_filter_chooses_among_both(staff: Client, bob: User) -> None:
    tried(bob)
    execution = dead_letter(owner=bob)
    assert len(post(staff, "drop", {"filter": {"type": "notification"}}).json()["dropped"]) == 1
    assert [row["id"] for row in listed(staff)] == [str(execution.id)]
