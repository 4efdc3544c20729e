"""Mail by a service, with django-anymail's own clients against a server on this machine that answers as they do."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

import pytest
from pytest_django import Settings

from accounts.models import User
from main.tests.providers import Behaviour, Exchange, LocalProvider, hangs
from main.tests.rows import claimed
from notifications import outbox
from notifications.channels.email import channel
from notifications.models import Notification

pytestmark = pytest.mark.django_db(transaction=True)

ACCEPTED = {
    "postmark": {"To": "alice@example.com", "MessageID": "0a1b2c", "ErrorCode": 0, "Message": "OK"},
    "mailgun": {"id": "<0a1b2c@mg.example.com>", "message": "Queued. Thank you."},
}
REFUSED = {
    "postmark": (422, {"ErrorCode": 300, "Message": "Error parsing 'To': Illegal email domain."}),
    "mailgun": (400, {"message": "to parameter is not a valid address. please check documentation"}),
}


def answering(status: int, body: Any) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.send_json(status, body)

    return behave


@pytest.fixture(params=ACCEPTED)
def service(request: pytest.FixtureRequest, settings: Settings) -> Iterator[tuple[str, LocalProvider]]:
    name: str = request.param
    with LocalProvider(answering(200, ACCEPTED[name])) as provider:
        settings.EMAIL_BACKEND = f"anymail.backends.{name}.EmailBackend"
        settings.ANYMAIL = {
            "POSTMARK_SERVER_TOKEN": "token-for-tests",
            "POSTMARK_API_URL": f"{provider.url}/",
            "MAILGUN_API_KEY": "token-for-tests",
            "MAILGUN_SENDER_DOMAIN": "mg.example.com",
            "MAILGUN_API_URL": f"{provider.url}/v3",
        }
        yield name, provider
        channel.close()


def sent(owner: User) -> tuple[str, str, str]:
    """Send a notification; return its state, and outcome and answer of the try."""
    execution = claimed(owner=owner, notify=True)
    execution.finish(result="Done.")
    assert outbox.work() == 1
    notification = Notification.objects.get(execution=execution)
    delivery = notification.deliveries.get()
    return notification.state, delivery.outcome, delivery.answer


def test_what_it_takes_is_sent_with_its_id(service: tuple[str, LocalProvider], alice: User) -> None:
    name, provider = service
    state, outcome, answer = sent(alice)
    assert (state, outcome) == ("SENT", "sent")
    assert "0a1b2c" in answer
    (request,) = provider.requests
    body = unquote_plus(request.body.decode()) if name == "mailgun" else str(request.body)
    for text in ("alice@example.com", "List-Unsubscribe", "Message-ID", "Done."):
        assert text.lower() in body.lower(), name


def test_what_it_refuses_ends_at_once(service: tuple[str, LocalProvider], alice: User) -> None:
    name, provider = service
    provider.script.append(answering(*REFUSED[name]))
    state, outcome, answer = sent(alice)
    assert (state, outcome) == ("FAILED", "refused")
    assert "token-for-tests" not in answer


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_what_is_not_the_mails_fault_is_tried_again(
    service: tuple[str, LocalProvider], alice: User, status: int
) -> None:
    service[1].script.append(
        answering(status, {"message": "Not now.", "Message": "Not now.", "ErrorCode": 10})
    )
    assert sent(alice)[:2] == ("PENDING", "put_off")


def test_a_service_that_hangs_is_left_in_time(
    service: tuple[str, LocalProvider], alice: User, settings: Settings
) -> None:
    settings.ANYMAIL = {**settings.ANYMAIL, "REQUESTS_TIMEOUT": 0.3}
    service[1].script.append(hangs)
    state, outcome, answer = sent(alice)
    assert (state, outcome) == ("PENDING", "put_off")
    assert "timed out" in answer


def test_a_service_that_is_not_there_is_tried_again(
    service: tuple[str, LocalProvider], alice: User, settings: Settings
) -> None:
    nowhere = "http://127.0.0.1:1/"
    settings.ANYMAIL = {**settings.ANYMAIL, "POSTMARK_API_URL": nowhere, "MAILGUN_API_URL": nowhere}
    assert sent(alice)[:2] == ("PENDING", "put_off")
