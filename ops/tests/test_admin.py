"""The admin of who operates: dead letters singly and in bulk, queues and how one is purged."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from main.models import Execution, Step, WorkerBeat
from main.tests.admin_pages import (
    STAFF,
    act,
    expect_nothing_inline,
    expect_sign_in,
    messages_of,
    permit,
    text_of,
)
from main.tests.rows import claimed, step_record, waiting
from notifications.models import Notification
from ops import admin as ops_admin
from ops.tests.conftest import AWAY, dead_letter

pytestmark = pytest.mark.django_db

LETTERS, QUEUES = "/admin/ops/deadletter/", "/admin/ops/queue/"
PURGE = f"{QUEUES}io.high/purge/"


@pytest.fixture
def admin_pages(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("charlie@example.com"))
    return client


def page_of(execution: Execution) -> str:
    return reverse("admin:ops_deadletter_change", args=[execution.id])


def button(execution: Execution, act: str) -> str:
    return reverse(f"admin:ops_deadletter_{act}", args=[execution.id])


def rows(client: Client, query: str = "") -> list[Execution]:
    response = client.get(f"{LETTERS}?{query}")
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


# Who may what


@STAFF
def test_staff_look_with_the_view_permission_and_act_with_the_change_permission(
    client: Client, alice: User, permissions: list[str], look: int, operate: bool
) -> None:
    permit(alice, permissions)
    client.force_login(alice)
    first, second, third = dead_letter(), dead_letter(), dead_letter()
    waiting(kind="io", priority="high")
    for address in (LETTERS, page_of(first), QUEUES):
        assert client.get(address).status_code == look
    assert (LETTERS in text_of(client, "/admin/")) is (QUEUES in text_of(client, "/admin/")) is (look == 200)
    if look == 200:
        assert (button(first, "drop") in text_of(client, page_of(first))) is operate
        assert (PURGE in text_of(client, QUEUES)) is operate
    assert client.get(PURGE).status_code == (200 if operate else 403)
    acted = 302 if operate else 403
    assert client.post(button(first, "requeue_from_start")).status_code == acted
    assert client.post(button(second, "drop")).status_code == acted
    assert client.post(PURGE).status_code == acted
    client.post(LETTERS, {"action": "drop", "_selected_action": [str(third.id)]})
    assert Execution.dead_letters().count() == (0 if operate else 3)
    assert Execution.objects.filter(state="CANCELLED").exists() is operate
    for address in (f"{LETTERS}add/", reverse("admin:ops_deadletter_delete", args=[first.id])):
        assert client.post(address).status_code == 403


def test_others_are_sent_to_sign_in(client: Client, bob: User) -> None:
    letter = dead_letter()
    waiting(kind="io", priority="high")
    for user in (None, bob):
        if user:
            client.force_login(user)
        expect_sign_in(client, (LETTERS, page_of(letter), button(letter, "drop"), QUEUES, PURGE))
    assert Execution.dead_letters().exists()
    assert Execution.objects.filter(state="PENDING").exists()


def test_acting_needs_the_csrf_token(alice: User) -> None:
    permit(alice, ["change_execution"])
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    letter = dead_letter()
    for address in (PURGE, button(letter, "drop"), button(letter, "requeue_from_start")):
        assert client.post(address).status_code == 403
    assert Execution.dead_letters().exists()


# Dead letters


def test_the_list_shows_what_failed_and_why(admin_pages: Client, bob: User) -> None:
    dead_letter({"message": "<Away> " + "x" * 300}, owner=bob)
    page = text_of(admin_pages, LETTERS)
    assert "<h1>Dead letters</h1>" in page
    assert "&lt;Away&gt; xxx" in page
    assert "x" * 200 not in page
    assert "<code>unavailable</code>" in page
    assert "bob@example.com" in page


def test_the_list_leaves_out_what_is_settled_and_what_did_not_fail(admin_pages: Client) -> None:
    first, second = dead_letter(), dead_letter()
    dead_letter().settle()
    claimed().finish()
    claimed().cancel()
    assert rows(admin_pages) == [second, first]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("flow=poem_flow", 1),
        ("error=quota", 1),
        ("error=unavailable", 2),
        ("error=gone", 0),
        ("kind=io", 1),
        ("kind=cpu", 0),
        ("priority__exact=low", 1),
        ("finished_at__gte=2020-01-01+00%3A00%3A00%2B00%3A00", 3),
        ("finished_at__gte=2999-01-01+00%3A00%3A00%2B00%3A00", 0),
        ("q=poem", 1),
    ],
)
def test_the_list_filters_by_flow_error_kind_priority_and_time(
    admin_pages: Client, query: str, count: int
) -> None:
    dead_letter({"type": "quota"}, priority="low")
    dead_letter(flow="poem_flow")
    dead_letter(kind="io")
    assert len(rows(admin_pages, query)) == count


def test_the_filters_name_what_there_is(admin_pages: Client) -> None:
    dead_letter({"type": "quota"})
    dead_letter({"type": "broken"}).settle()
    page = text_of(admin_pages, LETTERS)
    assert "?error=quota" in page
    assert "?error=broken" not in page
    assert "No date" not in page


def test_the_list_costs_the_same_for_3_and_for_30_rows(
    admin_pages: Client, bob: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (3, 27):
        for _ in range(count):
            dead_letter(owner=bob)
        # Session, user, the types of errors, how many, the rows, the mails.
        with django_assert_num_queries(6):
            admin_pages.get(LETTERS)


def test_the_page_costs_the_same_however_much_happened(
    admin_pages: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    small, large = dead_letter(), claimed()
    for number in range(20):
        Step.record(large, step_record(f"step {number}"))
    large.finish(error=AWAY)  # type: ignore[arg-type]
    for execution in (small, large):
        # Session, user, execution with its owner, how many entries, the steps.
        with django_assert_num_queries(5):
            admin_pages.get(page_of(execution))


@pytest.mark.parametrize(("action", "steps"), [("requeue_from_failed_step", 1), ("requeue_from_start", 0)])
@pytest.mark.parametrize("from_page", [False, True])
def test_one_is_requeued(admin_pages: Client, bob: User, action: str, steps: int, from_page: bool) -> None:
    execution = claimed(owner=bob, inputs={"to": 7})
    Step.record(execution, step_record())
    execution.finish(error=AWAY)  # type: ignore[arg-type]
    said = (
        messages_of(admin_pages, button(execution, action))
        if from_page
        else act(admin_pages, LETTERS, action, execution)
    )
    started = execution.runs_again.get()
    assert said == [
        f'An execution was started: <a href="/admin/main/execution/{started.id}/change/">{started}</a>'
    ]
    assert (started.owner, started.inputs, started.steps.count()) == (bob, {"to": 7}, steps)
    assert rows(admin_pages) == []
    page = text_of(admin_pages, page_of(execution))
    assert f'It was run again as <a href="/admin/main/execution/{started.id}/change/">' in page
    assert button(execution, action) not in page


def test_many_are_requeued_and_what_cannot_is_said(admin_pages: Client) -> None:
    good, other, gone = dead_letter(), dead_letter(), dead_letter()
    Execution.objects.filter(id=gone.id).update(flow="gone_flow")
    said = act(admin_pages, LETTERS, "requeue_from_failed_step", good, other, gone)
    assert said[0] == "2 executions were started."
    assert said[1].startswith("“gone_flow” was not run again. There is no flow “gone_flow”")
    assert [row.id for row in rows(admin_pages)] == [gone.id]


def test_many_are_dropped(admin_pages: Client) -> None:
    first, second = dead_letter(), dead_letter()
    assert act(admin_pages, LETTERS, "drop", first, second) == ["2 dead letters were dropped."]
    assert "It was dropped." in text_of(admin_pages, page_of(first))
    history = reverse("admin:main_execution_history", args=[first.id])
    assert "Dropped from the dead letters." in text_of(admin_pages, history)


def test_what_somebody_else_settled_meanwhile_is_said(admin_pages: Client) -> None:
    letter = dead_letter()
    letter.settle()
    assert messages_of(admin_pages, button(letter, "drop")) == ["1 was no dead letter any more."]
    (said,) = messages_of(admin_pages, button(letter, "requeue_from_start"))
    assert said == "“Count” was not run again. The execution is no dead letter, or not any more."
    assert Execution.objects.count() == 1


def test_following_a_buttons_address_does_nothing(admin_pages: Client) -> None:
    letter = dead_letter()
    for name in ("drop", "requeue_from_start", "requeue_from_failed_step"):
        assert admin_pages.get(button(letter, name)).headers["Location"] == page_of(letter)
    assert rows(admin_pages) == [letter]


def test_what_did_not_fail_has_no_page_here(admin_pages: Client) -> None:
    execution = claimed()
    execution.finish()
    assert admin_pages.get(page_of(execution)).status_code == 302
    assert admin_pages.post(button(execution, "drop")).status_code == 404


def undelivered(user: User, hours_ago: int, **fields: Any) -> Notification:
    values = {"event": "digest", "channel": "email", "reason": "many", "state": "FAILED", **fields}
    ended = datetime.now(UTC) - timedelta(hours=hours_ago)
    return Notification.objects.create(user=user, finished_at=ended, created_at=ended, **values)


def test_more_mails_than_are_shown_are_a_link_away(
    admin_pages: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_admin, "MAILS_SHOWN", 1)
    newest, newer = undelivered(bob, 1), undelivered(bob, 2)
    undelivered(bob, 3, settled_at=datetime.now(UTC))
    undelivered(bob, 3, state="SENT")
    context = admin_pages.get(LETTERS).context
    assert (context["mails"], context["mail_count"]) == ([newest], 2)
    assert f'<a href="{context["all_mails"].replace("&", "&amp;")}">' in text_of(admin_pages, LETTERS)
    assert list(admin_pages.get(context["all_mails"]).context["cl"].result_list) == [newest, newer]


# Queues


def test_the_page_shows_queues_and_workers(admin_pages: Client) -> None:
    for _ in range(3):
        waiting(kind="io", priority="high")
    Execution.objects.update(created_at=datetime.now(UTC) - timedelta(seconds=125))
    WorkerBeat.beat("host/1/1", "io", capacity=32, stuck=4)
    page = text_of(admin_pages, QUEUES)
    assert '<th scope="row">io.high</th>\n      <td class="number">3</td>' in page
    assert '<td class="number">2 min 5' in page
    assert "16 of 21" in page
    assert '<td class="number">32</td>' in page
    assert '<span class="state state-failure">4</span>' in page
    assert '<span class="state state-failure">none</span>' in page  # nobody works for cpu
    assert "io.normal/purge/" not in page  # nothing waits there


def test_a_queue_is_purged_when_that_is_confirmed(admin_pages: Client) -> None:
    for _ in range(2):
        waiting(kind="io", priority="high")
    asked = text_of(admin_pages, PURGE)
    assert "2 executions wait in io.high." in asked
    assert '<form method="post">' in asked
    assert set(Execution.objects.values_list("state", flat=True)) == {"PENDING"}
    assert messages_of(admin_pages, PURGE) == ["2 executions that waited in io.high were cancelled."]
    assert set(Execution.objects.values_list("state", flat=True)) == {"CANCELLED"}


def test_a_queue_that_is_not_there_is_a_404(admin_pages: Client) -> None:
    assert admin_pages.post(PURGE.replace("io.high", "io.urgent")).status_code == 404


def test_the_queues_cost_the_same_however_much_waits(
    admin_pages: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(2):
        waiting(kind="io", priority="high")
        # Session, user, what waits, what runs, the workers.
        with django_assert_num_queries(5):
            admin_pages.get(QUEUES)


def test_pages_have_no_inline_script_or_style(admin_pages: Client) -> None:
    waiting(kind="io", priority="high")
    for address in (LETTERS, page_of(dead_letter()), QUEUES, PURGE):
        expect_nothing_inline(text_of(admin_pages, address))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3600, "1 h"), (24 * 3600, "1 day"), (36 * 3600, "36 h"), (7 * 24 * 3600, "7 days")]
)
def test_limits_read_well(seconds: int, text: str) -> None:
    assert ops_admin.limit_text(seconds) == text
