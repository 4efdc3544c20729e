"""The web side: who may ask to be told, what is told of it, preferences, unsubscribing, the mailbox, languages."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.mail import EmailMultiAlternatives
from django.test import Client

from accounts.models import User
from main.models import Execution
from main.registry import load_flows
from main.tests.rows import claimed, waiting
from notifications import mail_folder
from notifications.mail_folder import EmailBackend
from notifications.models import WATCHED, Delivery, Notification, Preference
from notifications.unsubscribe import unsubscribe_address

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
HTML = {"Accept": "text/html"}


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice@example.com", PASSWORD)


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob@example.com", PASSWORD)


@pytest.fixture
def charlie() -> User:
    """Staff."""
    return User.objects.create_superuser("charlie@example.com", PASSWORD)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def post(client: Client, path: str, body: Any) -> Any:
    return client.post(path, body, content_type="application/json")


def ended(owner: User, **fields: Any) -> Execution:
    """An execution that has ended just now."""
    execution = claimed(owner=owner, owner_key=owner.pk, **fields)
    assert execution.cancel()
    return execution


def told(client: Client, execution: Execution) -> Any:
    return client.get(f"/api/v1/executions/{execution.id}/notifications").json()


# At the start


def start(client: Client, **fields: Any) -> Any:
    load_flows(["main.tests.engine_flows"])
    return post(client, "/start-task/", {"flow": "count_flow", "inputs": {}, **fields})


@pytest.mark.parametrize("notify", [True, False])
def test_a_start_says_whether_it_is_told(alice: User, notify: bool) -> None:
    response = start(client_of(alice), notify=notify)
    assert response.status_code == 200
    assert Execution.objects.get(id=response.json()["task_id"]).notify is notify


def test_nobody_is_told_who_does_not_ask(alice: User) -> None:
    response = start(client_of(alice))
    assert Execution.objects.get(id=response.json()["task_id"]).notify is False


@pytest.mark.parametrize("notify", [None, 1, 0, "true", "", [], {}])
def test_notify_is_true_or_false(alice: User, notify: Any) -> None:
    response = start(client_of(alice), notify=notify)
    assert response.status_code == 400
    assert response.json()["errors"] == {"notify": ["“notify” is either true or false."]}
    assert not Execution.objects.exists()


def test_a_visitor_cannot_ask_for_mails(client: Client) -> None:
    response = start(client, notify=True)
    assert response.status_code == 403
    assert "Sign in" in response.json()["error"]
    assert not Execution.objects.exists()
    assert start(client, notify=False).status_code == 200


# While it runs


def ask(client: Client, execution: Execution, notify: Any = True) -> Any:
    return post(client, f"/api/v1/executions/{execution.id}/notify", {"notify": notify})


def test_an_owner_asks_to_be_told_and_thinks_better_of_it(alice: User) -> None:
    execution = waiting(owner=alice)
    client = client_of(alice)
    assert told(client, execution) == {
        "notify": False,
        "may_ask": True,
        "is_owner": True,
        "notifications": [],
    }
    response = ask(client, execution)
    assert response.status_code == 200
    assert response.json()["notify"] is True
    assert told(client, execution)["notify"] is True
    assert ask(client, execution, notify=False).json()["notify"] is False
    assert told(client, execution)["notify"] is False


@pytest.mark.parametrize("body", [{}, {"notify": 1}, {"notify": True, "to": "mallory@example.com"}])
def test_nothing_but_true_or_false_is_asked(alice: User, body: Any) -> None:
    execution = waiting(owner=alice)
    response = post(client_of(alice), f"/api/v1/executions/{execution.id}/notify", body)
    assert response.status_code == 400


def test_an_execution_of_others_is_not_there(alice: User, bob: User) -> None:
    execution = waiting(owner=alice)
    for each in (Client(), client_of(bob)):
        assert ask(each, execution).status_code == 404
        assert each.get(f"/api/v1/executions/{execution.id}/notifications").status_code == 404
        assert post(each, f"/api/v1/executions/{execution.id}/seen", {}).status_code == 404
    execution.refresh_from_db()
    assert execution.notify is False


def test_staff_see_what_was_told_but_are_not_told_of_others_executions(alice: User, charlie: User) -> None:
    execution = waiting(owner=alice)
    client = client_of(charlie)
    assert ask(client, execution).status_code == 403
    assert post(client, f"/api/v1/executions/{execution.id}/seen", {}).status_code == 403
    assert told(client, execution) | {"notifications": []} == {
        "notify": False,
        "may_ask": False,
        "is_owner": False,
        "notifications": [],
    }


def test_nobody_asks_to_be_told_of_what_has_ended(alice: User) -> None:
    execution = ended(alice)
    client = client_of(alice)
    assert told(client, execution)["may_ask"] is False
    response = ask(client, execution)
    assert response.status_code == 409
    assert "ended" in response.json()["error"]


def test_who_has_unsubscribed_is_told_so(alice: User) -> None:
    Preference.unsubscribe(alice.pk)
    execution = waiting(owner=alice)
    client = client_of(alice)
    assert told(client, execution)["may_ask"] is False
    response = ask(client, execution)
    assert response.status_code == 409
    assert "unsubscribed" in response.json()["error"]
    assert ask(client, execution, notify=False).status_code == 200


# After it ended


def test_the_history_names_every_try(alice: User) -> None:
    execution = ended(alice, notify=True)
    client = client_of(alice)
    (waits,) = told(client, execution)["notifications"]
    assert (waits["to"], waits["reason"], waits["state"]) == ("alice@example.com", "asked", "PENDING")
    notification = Notification.claim_next("bob/1/1", ["email"])
    assert notification
    notification.record(Delivery.Outcome.PUT_OFF, "451 Come back later", 0.25)
    (waits,) = told(client, execution)["notifications"]
    (delivery,) = waits["deliveries"]
    assert delivery["outcome"] == "put_off"
    assert delivery["answer"] == "451 Come back later"
    assert delivery["seconds"] == 0.25
    assert datetime.fromisoformat(waits["due_at"]) > datetime.now(UTC)


def test_who_watched_a_long_one_to_its_end_is_not_told(alice: User) -> None:
    Preference.objects.create(user=alice, mode="long", seconds=1)
    execution = claimed(owner=alice)
    Execution.objects.filter(id=execution.id).update(started_at=datetime.now(UTC) - timedelta(minutes=2))
    assert execution.cancel()
    client = client_of(alice)
    assert post(client, f"/api/v1/executions/{execution.id}/seen", {}).json() == {"withdrawn": True}
    (withdrawn,) = told(client, execution)["notifications"]
    assert (withdrawn["state"], withdrawn["note"]) == ("SKIPPED", WATCHED)
    assert post(client, f"/api/v1/executions/{execution.id}/seen", {}).json() == {"withdrawn": False}


def test_who_asked_for_a_mail_gets_it_although_they_watched(alice: User) -> None:
    execution = ended(alice, notify=True)
    client = client_of(alice)
    assert post(client, f"/api/v1/executions/{execution.id}/seen", {}).json() == {"withdrawn": False}
    assert told(client, execution)["notifications"][0]["state"] == "PENDING"


# Preferences


def test_preferences_are_for_who_is_signed_in(client: Client) -> None:
    response = client.get("/notifications/")
    assert response.status_code == 302
    assert response["Location"].startswith("/sign-in/?next=")


def test_preferences_are_kept_and_shown(alice: User) -> None:
    client = client_of(alice)
    response = client.post(
        "/notifications/", {"mode": "long", "seconds": "90", "language": "es"}, follow=True
    )
    assert response.redirect_chain == [("/notifications/", 302)]
    assert "Saved." in response.content.decode()
    preference = Preference.of(alice)
    assert (preference.mode, preference.seconds) == ("long", 90)
    alice.refresh_from_db()
    assert alice.language == "es"
    page = client.get("/notifications/").content.decode()
    assert 'value="90"' in page
    assert '<option value="es" selected>' in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "always"},
        {"mode": ""},
        {"seconds": "0"},
        {"seconds": "-1"},
        {"seconds": "soon"},
        {"seconds": str(10**9)},
        {"language": "tlh"},
    ],
)
def test_what_is_no_preference_is_refused_beside_its_field(alice: User, wrong: dict[str, str]) -> None:
    fields = {"mode": "long", "seconds": "90", "language": "en"} | wrong
    response = client_of(alice).post("/notifications/", fields)
    assert response.status_code == 200
    assert 'class="field-error"' in response.content.decode()
    assert not Preference.objects.exists()


def test_seconds_are_only_asked_for_where_they_count(alice: User) -> None:
    response = client_of(alice).post("/notifications/", {"mode": "failures", "seconds": "", "language": "en"})
    assert response.status_code == 302
    assert (Preference.of(alice).mode, Preference.of(alice).seconds) == ("failures", 60)


def test_to_save_allows_mails_again(alice: User) -> None:
    Preference.unsubscribe(alice.pk)
    client = client_of(alice)
    assert "You have unsubscribed" in client.get("/notifications/").content.decode()
    client.post("/notifications/", {"mode": "never", "seconds": "60", "language": "en"})
    assert Preference.of(alice).unsubscribed_at is None
    assert "You have unsubscribed" not in client.get("/notifications/").content.decode()


def test_a_users_page_has_a_box_and_a_visitors_has_none(client: Client, alice: User) -> None:
    assert 'id="notify"' not in client.get("/", headers=HTML).content.decode()
    page = client_of(alice).get("/", headers=HTML).content.decode()
    assert 'id="notify"' in page
    assert 'id="notify-hint"' not in page
    Preference.unsubscribe(alice.pk)
    page = client_of(alice).get("/", headers=HTML).content.decode()
    assert 'autocomplete="off" disabled aria-describedby="notify-hint"' in page


# Unsubscribing


def path_of(user: User) -> str:
    return "/unsubscribe/" + unsubscribe_address(user.pk).partition("/unsubscribe/")[2]


def test_a_get_only_asks(client: Client, alice: User) -> None:
    """Programs that look at mails follow links."""
    for _ in range(2):
        response = client.get(path_of(alice))
        assert response.status_code == 200
        assert 'method="post"' in response.content.decode()
    assert client.head(path_of(alice)).status_code == 200
    assert Preference.of(alice).unsubscribed_at is None


def test_one_click_unsubscribes_without_cookies_or_token(alice: User, bob: User) -> None:
    execution = ended(alice, notify=True)
    program = Client(enforce_csrf_checks=True)
    body = "List-Unsubscribe=One-Click"
    response = program.post(path_of(alice), body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 200
    assert "No more mails are sent to alice@example.com" in response.content.decode()
    assert not response.cookies
    assert Preference.of(alice).unsubscribed_at
    assert Preference.of(bob).unsubscribed_at is None
    assert Notification.objects.get(execution=execution).state == Notification.State.SKIPPED


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_link_that_nobody_signed_is_not_there(client: Client, alice: User, method: str) -> None:
    genuine = path_of(alice).removeprefix("/unsubscribe/").removesuffix("/")
    other = genuine.replace(str(alice.pk), str(uuid.uuid4()))
    for forged in (str(alice.pk), genuine[:-1], genuine + "x", other, "x:y", "x"):
        assert getattr(client, method)(f"/unsubscribe/{forged}/").status_code == 404
    assert Preference.of(alice).unsubscribed_at is None


def test_a_link_is_read_and_posted_alone(client: Client, alice: User) -> None:
    link = path_of(alice)
    assert {client.put(link).status_code, client.delete(link).status_code} == {405}


def test_the_link_of_a_deleted_user_is_not_there(client: Client, alice: User) -> None:
    path = path_of(alice)
    alice.delete()
    assert client.post(path).status_code == 404


# The mailbox


@pytest.fixture
def mail(settings: LazySettings, tmp_path: Path) -> str:
    """The name of a mail that is kept in the folder."""
    settings.EMAIL_BACKEND = "notifications.mail_folder.EmailBackend"
    settings.MAIL_FOLDER = tmp_path
    message = EmailMultiAlternatives("Poem: finished", "The text", "ctm@example.com", ["alice@example.com"])
    message.attach_alternative("<p>The <b>HTML</b></p><script>steal()</script>", "text/html")
    EmailBackend().send_messages([message])
    (kept,) = mail_folder.newest()
    return kept.name


def paths(name: str) -> tuple[str, str, str]:
    return "/mailbox/", f"/mailbox/{name}/", f"/mailbox/{name}/html/"


def test_staff_read_mails(charlie: User, mail: str) -> None:
    client = client_of(charlie)
    box, letter, html = (client.get(path) for path in paths(mail))
    assert "Poem: finished" in box.content.decode()
    assert "alice@example.com" in letter.content.decode()
    assert "The text" in letter.content.decode()
    assert "MIME-Version: 1.0" in letter.content.decode(), "all lines of its head are there"
    assert "<b>HTML</b>" not in letter.content.decode()
    assert "<b>HTML</b>" in html.content.decode()
    assert 'href="/mailbox/"' in client.get("/", headers=HTML).content.decode()


def test_a_mail_does_nothing_by_itself(charlie: User, mail: str) -> None:
    response = client_of(charlie).get(f"/mailbox/{mail}/html/")
    policy = dict(each.strip().split(" ", 1) for each in response["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["form-action"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert "allow-scripts" not in policy["sandbox"]
    assert "allow-same-origin" not in policy["sandbox"]
    assert "script-src" not in policy


def test_the_mailbox_is_staffs_alone(client: Client, alice: User, mail: str) -> None:
    for each in (client, client_of(alice)):
        assert {each.get(path).status_code for path in paths(mail)} == {404}
        assert 'href="/mailbox/"' not in each.get("/", headers=HTML).content.decode()


def test_where_mails_are_sent_there_is_no_mailbox(charlie: User, mail: str, settings: LazySettings) -> None:
    for backend in ("notifications.smtp.EmailBackend", ""):
        settings.EMAIL_BACKEND = backend
        client = client_of(charlie)
        assert {client.get(path).status_code for path in paths(mail)} == {404}
        assert 'href="/mailbox/"' not in client.get("/", headers=HTML).content.decode()


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fsecret", "0" * 20 + "-00000000", "x"])
def test_no_other_file_is_read(charlie: User, mail: str, name: str) -> None:
    assert client_of(charlie).get(f"/mailbox/{name}/").status_code == 404


# Languages


def sign_in(user: User, language: str) -> None:
    fields = {"username": user.email, "password": PASSWORD}
    response = Client(headers={"Accept-Language": language}).post("/sign-in/", fields)
    assert response.status_code == 302
    user.refresh_from_db()


def test_the_language_of_the_first_sign_in_is_that_of_mails(alice: User) -> None:
    assert alice.language == ""
    sign_in(alice, "es-CO,es;q=0.9")
    assert alice.language == "es"
    sign_in(alice, "en")
    assert alice.language == "es"
