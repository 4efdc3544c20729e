"""Notifications in the admin: the list, the page of one with its tries, and "send again"."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from main import bells, execution_pages
from main.tests.admin_pages import act, expect_nothing_inline, messages_of, permit, text_of
from notifications.models import Delivery, Notification
from notifications.tests.rows import tried

pytestmark = pytest.mark.django_db

LIST = "/admin/notifications/notification/"
LETTERS = "/admin/ops/deadletter/"


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker of a running platform is woken."""
    monkeypatch.setattr(bells, "ring", lambda *_, **__: None)


@pytest.fixture
def carol(client: Client) -> User:
    """One of the staff, who is signed in."""
    carol = User.objects.create_user("carol@example.com", is_staff=True)
    client.force_login(carol)
    return carol


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("dave@example.com"))
    return client


def page_of(notification: Notification) -> str:
    return f"{LIST}{notification.id}/change/"


@pytest.mark.parametrize(
    ("permissions", "look", "operate"),
    [
        ([], 403, False),
        (["view_notification"], 200, False),
        (["change_notification"], 200, True),
        (["view_execution", "change_execution"], 403, False),
    ],
)
@pytest.mark.parametrize("button", ["send-again", "drop"])
def test_who_may_look_and_act(
    client: Client, carol: User, alice: User, permissions: list[str], look: int, operate: bool, button: str
) -> None:
    notification = tried(alice)
    permit(carol, permissions)
    for address in (LIST, page_of(notification)):
        assert client.get(address).status_code == look
    assert client.post(f"{LIST}{notification.id}/{button}/").status_code == (302 if operate else 403)
    assert Notification.dead_letters().exists() is not operate


def test_the_page_of_one_has_every_try_and_what_was_answered(admin: Client, alice: User) -> None:
    notification = tried(alice)
    page = text_of(admin, page_of(notification))
    for text in ("alice@example.com", "550 5.1.1 &lt;No such user&gt;", "refused", "0.12", "Send again"):
        assert text in page
    assert notification.message_id.strip("<>") in page
    expect_nothing_inline(page)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state__exact=FAILED", 1),
        ("state__exact=SENT", 1),
        ("channel=email", 2),
        ("channel=pigeon", 0),
        ("reason__exact=long", 0),
        ("q=alice@example.com", 2),
        ("", 2),
    ],
)
def test_the_list_is_filtered(admin: Client, alice: User, query: str, count: int) -> None:
    tried(alice)
    tried(alice, Delivery.Outcome.SENT)
    response = admin.get(f"{LIST}?{query}")
    assert len(response.context["cl"].result_list) == count
    assert "field-reason" in text_of(admin, f"{LIST}?reason__exact=asked&q=alice@example.com")


def test_the_list_costs_the_same_however_long_it_is(
    admin: Client, alice: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (1, 8):
        for _ in range(count):
            digest = Notification.objects.create(user=alice, event="digest", channel="email", reason="many")
            Notification.objects.filter(id=tried(alice).id).update(digest=digest)
        # Session, user, how many, the rows.
        with django_assert_num_queries(4):
            assert "1 execution" in text_of(admin, LIST)


def test_members_are_counted_for_the_rows_that_are_shown(admin: Client, alice: User) -> None:
    """A join would be counted for the whole table before its first page is cut."""
    Notification.objects.create(user=alice, event="digest", channel="email", reason="many")
    with CaptureQueriesContext(connection) as queries:
        assert "0 executions" in text_of(admin, LIST)
    (listing,) = [each["sql"] for each in queries if "member_count" in each["sql"]]
    assert "GROUP BY" not in listing.split(" FROM ")[-1]
    assert 'U0."digest_id"' in listing


def test_what_was_chosen_is_sent_again(admin: Client, alice: User) -> None:
    failed, sent = tried(alice), tried(alice, Delivery.Outcome.SENT)
    waiting = tried(alice, Delivery.Outcome.PUT_OFF)
    assert act(admin, LIST, "send_again", failed, sent, waiting) == [
        "2 are sent again.",
        "1 was not sent again: it waits, is being sent, or is in a digest.",
    ]
    assert set(Notification.objects.values_list("state", flat=True)) == {"PENDING"}
    assert "Sent again." in text_of(admin, f"{LIST}{failed.id}/history/")
    assert "Sent again." not in text_of(admin, f"{LIST}{waiting.id}/history/")


def test_what_is_in_a_digest_is_not_sent_by_itself(admin: Client, alice: User) -> None:
    notification = tried(alice)
    Notification.objects.filter(id=notification.id).update(state="DIGESTED")
    assert "Send again" not in text_of(admin, page_of(notification))
    (said,) = messages_of(admin, f"{LIST}{notification.id}/send-again/")
    assert said == "1 was not sent again: it waits, is being sent, or is in a digest."


def test_what_was_chosen_is_dropped_once(admin: Client, alice: User) -> None:
    failed, sent = tried(alice), tried(alice, Delivery.Outcome.SENT)
    said = act(admin, LIST, "drop", failed, sent)
    assert said == ["1 was dropped.", "1 was no dead letter any more."]
    assert not Notification.dead_letters().exists()
    assert "Dropped from the dead letters." in text_of(admin, f"{LIST}{failed.id}/history/")


def test_an_action_takes_no_more_than_it_can_do(
    admin: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_pages, "MAX_AT_ONCE", 2)
    first, second, third = tried(alice), tried(alice), tried(alice)
    assert act(admin, LIST, "drop", first, second, third) == [
        "Only the 2 oldest of them were taken: more are too many at once.",
        "2 were dropped.",
    ]
    assert [each.id for each in Notification.dead_letters()] == [third.id]


def test_following_a_buttons_address_does_nothing(admin: Client, alice: User) -> None:
    notification = tried(alice)
    for button in ("send-again", "drop"):
        address = f"{LIST}{notification.id}/{button}/"
        assert admin.get(address).headers["Location"] == page_of(notification)
    assert Notification.dead_letters().exists()


def test_dead_letters_show_mails_beside_executions(admin: Client, alice: User) -> None:
    assert "could not be delivered" not in text_of(admin, LETTERS)
    first, second = tried(alice), tried(alice)
    page = text_of(admin, LETTERS)
    assert "Mails that could not be delivered (2)" in page
    assert "550 5.1.1 &lt;No such user&gt;" in page
    expect_nothing_inline(page)
    assert messages_of(admin, f"{LIST}{first.id}/send-again/") == ["1 is sent again."]
    assert messages_of(admin, f"{LIST}{second.id}/drop/") == ["1 was dropped."]
    assert "could not be delivered" not in text_of(admin, LETTERS)


def test_who_may_not_see_mails_sees_none_among_the_dead_letters(
    client: Client, carol: User, alice: User
) -> None:
    tried(alice)
    permit(carol, ["view_execution"])
    assert "alice@example.com" not in text_of(client, LETTERS)
    permit(carol, ["view_execution", "view_notification"])
    page = text_of(client, LETTERS)
    assert "alice@example.com" in page
    assert "Send again" not in page
