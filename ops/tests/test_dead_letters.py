"""`GET /api/v1/ops/dead-letters`: what failed or expired and is not settled, filtered and in pages."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from main.models import Execution
from main.tests.rows import claimed, waiting
from ops.tests.conftest import dead_letter

pytestmark = pytest.mark.django_db

ADDRESS = "/api/v1/ops/dead-letters"


def listed(client: Client, **query: str) -> list[dict[str, Any]]:
    response = client.get(ADDRESS, query)
    assert response.status_code == 200, response.content
    rows: list[dict[str, Any]] = response.json()["dead_letters"]
    return rows


def end_at(execution: Execution, time: datetime) -> None:
    Execution.objects.filter(id=execution.id).update(finished_at=time)


@pytest.mark.parametrize(
    ("role", "status"),
    [("visitor", 403), ("user", 403), ("permitted user", 403), ("inactive staff", 403), ("staff", 200)],
)
def test_staff_look(ask: Any, role: str, status: int) -> None:
    assert ask(role, "GET", ADDRESS) == status


def test_a_dead_letter_says_what_failed_whose_and_why(staff: Client, bob: User) -> None:
    first = dead_letter()
    execution = dead_letter(inputs={"to": 7}, owner=bob, priority="low", origin=first)
    (row, _first) = listed(staff)
    assert datetime.fromisoformat(row.pop("created_at")) == execution.created_at
    assert datetime.fromisoformat(row.pop("finished_at")) == execution.finished_at
    assert row == {
        "type": "execution",
        "id": str(execution.id),
        "flow": "count_flow",
        "title": "Count",
        "inputs": {"to": 7},
        "owner": "bob@example.com",
        "error": {"type": "unavailable", "message": "The provider is away.", "retryable": True},
        "attempt": 1,
        "crashes": 0,
        "kind": "race",
        "priority": "low",
        "origin": str(first.id),
    }


def test_what_failed_or_expired_and_is_not_settled_is_listed(staff: Client) -> None:
    failed = dead_letter()
    dead_letter().settle()
    claimed().finish()
    claimed().cancel()
    claimed()
    expired = waiting(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    Execution.end_expired()
    assert [row["id"] for row in listed(staff)] == [str(expired.id), str(failed.id)]
    assert listed(staff)[0]["error"]["type"] == "expired"


def test_large_inputs_are_a_link(staff: Client) -> None:
    execution = dead_letter(inputs={"text": "x" * 40_000})
    inputs = listed(staff)[0]["inputs"]
    assert inputs["omitted_bytes"] > 40_000
    whole = staff.get(inputs["url"], headers={"Accept": "application/json"}).json()
    assert whole["inputs"] == execution.inputs


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "cba"),
        ({"flow": "poem_flow"}, "b"),
        ({"flow": "gone_flow"}, ""),
        ({"error": "quota"}, "c"),
        ({"error": "unavailable", "flow": "count_flow"}, "a"),
        ({"owner": "BOB@example.com"}, "a"),
        ({"owner": "nobody@example.com"}, ""),
        ({"after": "2026-01-02T00:00:00Z"}, "cb"),
        ({"before": "2026-01-03T13:00:00+01:00"}, "ba"),
        ({"after": "2026-01-02", "before": "2026-01-03"}, "b"),
        ({"before": "0001-01-01T00:00:00+14:00"}, ""),
    ],
)
def test_they_are_filtered(staff: Client, bob: User, query: dict[str, str], found: str) -> None:
    letters = {
        "a": dead_letter(owner=bob),
        "b": dead_letter(flow="poem_flow"),
        "c": dead_letter({"type": "quota"}),
    }
    for day, letter in enumerate(letters.values(), start=1):
        end_at(letter, datetime(2026, 1, day, 12, tzinfo=UTC))
    names = {str(letter.id): name for name, letter in letters.items()}
    assert "".join(names[row["id"]] for row in listed(staff, **query)) == found


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"before": "yesterday"}, "“before” is no ISO 8601 time such as 2026-01-31T12:00:00Z."),
        ({"after": "2026-13-45T00:00:00Z"}, "“after” is no ISO 8601 time"),
        ({"limit": "0"}, "“limit” is a number from 1 to 200."),
        ({"limit": "201"}, "“limit” is a number from 1 to 200."),
        ({"limit": "²"}, "“limit” is a number from 1 to 200."),
        ({"limit": "1" * 5000}, "“limit” is a number from 1 to 200."),
        ({"cursor": "x"}, "“cursor” is none that this list has given."),
        (
            {"cursor": "2026-01-01_00000000-0000-0000-0000-000000000000"},
            "“cursor” is none that this list has given.",
        ),
        ({"flow": ""}, "“flow” is no text to look for."),
        ({"owner": "a\x00b"}, "“owner” is no text to look for."),
        (
            {"flwo": "count_flow"},
            "There is no filter “flwo”; there are flow, error, owner, after, before, type.",
        ),
    ],
)
def test_what_does_not_fit_is_a_400_with_a_sentence(
    staff: Client, query: dict[str, str], sentence: str
) -> None:
    response = staff.get(ADDRESS, query)
    assert response.status_code == 400
    assert sentence in response.json()["error"]
    assert response.json()["errors"] == {next(iter(query)): [response.json()["error"]]}


def test_pages_lead_from_the_first_to_the_last_and_leave_out_none(staff: Client) -> None:
    letters = [dead_letter() for _ in range(7)]
    dead_letter({"type": "quota"})
    for letter in letters[2:5]:  # at one moment
        end_at(letter, datetime(2026, 1, 1, tzinfo=UTC))
    seen: list[str] = []
    address: str | None = f"{ADDRESS}?error=unavailable&limit=2"
    while address:
        page = staff.get(address).json()
        assert len(page["dead_letters"]) == (2 if page["next"] else 1)
        seen += [row["id"] for row in page["dead_letters"]]
        address = page["next"]
    assert sorted(seen) == sorted(str(letter.id) for letter in letters)


def test_a_page_that_is_just_full_is_the_last(staff: Client) -> None:
    for _ in range(2):
        dead_letter()
    assert staff.get(ADDRESS, {"limit": "2"}).json()["next"] is None


def test_it_costs_the_same_however_many_there_are(
    staff: Client, bob: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (2, 20):
        for _ in range(count):
            dead_letter(owner=bob)
        # Session, user, the executions, the mails.
        with django_assert_num_queries(4):
            staff.get(ADDRESS)
