"""E-mail by SMTP, with a real server: what it says, and what becomes of a mail then."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from accounts.models import User
from main.database import clock
from main.events import ErrorDetail
from main.models import Execution
from main.tests.programs import make_certificate
from main.tests.rows import claimed
from notifications import outbox
from notifications.channels import PutOff, Refused
from notifications.channels.email import channel
from notifications.letters import letter
from notifications.models import MAX_ANSWER, Notification
from notifications.tests.mail_server import DROP, HANG, OK, PASSWORD, MailServer
from notifications.unsubscribe import unsubscribe_address

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # aiosmtpd knows STARTTLS alone for TLS
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),
]


@pytest.fixture
def server(settings: Settings) -> Iterator[MailServer]:
    with MailServer() as server:
        yield sends_to(server, settings)


def sends_to(server: MailServer, settings: Settings, **more: Any) -> MailServer:
    settings.EMAIL_BACKEND = "notifications.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "localhost", server.port
    for name, value in more.items():
        setattr(settings, name, value)
    return server


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    channel.close()


def notification_of(owner: User, **outcome: Any) -> Notification:
    execution = claimed(owner=owner, notify=True)
    execution.finish(**(outcome or {"result": "Done."}))
    return Notification.objects.get(execution=execution)


def state_of(notification: Notification) -> tuple[str, list[tuple[str, str]]]:
    notification.refresh_from_db()
    return notification.state, [(each.outcome, each.answer) for each in notification.deliveries.all()]


def make_due() -> None:
    Notification.objects.filter(state="PENDING").update(due_at=clock() - timedelta(seconds=1))


# What servers say


def test_what_is_taken_is_sent_with_the_answer(server: MailServer, alice: User, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "Flows <flows@example.com>"
    notification = notification_of(alice)
    assert outbox.work() == 1
    assert state_of(notification) == ("SENT", [("sent", "250 OK: queued as 4F2")])
    (mail,) = server.received
    assert (mail.sender, mail.receivers) == ("flows@example.com", ["alice@example.com"])
    assert mail.message["From"] == "Flows <flows@example.com>"
    assert mail.message["To"] == "Alice <alice@example.com>"


def test_it_is_one_mail_to_receivers_and_ends_with_one_click(server: MailServer, alice: User) -> None:
    notification = notification_of(alice)
    outbox.work()
    head = server.received[0].raw.decode().split("\r\n\r\n")[0].split("\r\n")
    assert f"Message-ID: {notification.message_id}" in head
    # RFC 8058
    assert f"List-Unsubscribe: <{unsubscribe_address(alice.id)}>" in head
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in head
    assert server.received[0].message.get_content_type() == "multipart/alternative"


def test_greylisting_puts_it_off_and_the_next_try_goes_through(server: MailServer, alice: User) -> None:
    server.on_receiver = ["451 4.7.1 Greylisted, come back later"]
    notification = notification_of(alice)
    outbox.work()
    state, deliveries = state_of(notification)
    assert (state, deliveries) == ("PENDING", [("put_off", "451 4.7.1 Greylisted, come back later")])
    make_due()
    outbox.work()
    assert state_of(notification)[0] == "SENT"
    assert [mail.message["Message-ID"] for mail in server.received] == [notification.message_id]


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("on_receiver", "550 5.1.1 No such user"),
        ("on_data", "554 5.7.1 Spam"),
        ("on_mail", "553 5.1.8 Sender refused"),
    ],
)
def test_a_refusal_ends_it_at_once(server: MailServer, alice: User, where: str, answer: str) -> None:
    getattr(server, where).append(answer)
    notification = notification_of(alice)
    outbox.work()
    assert state_of(notification) == ("FAILED", [("refused", answer)])
    assert list(Notification.dead_letters()) == [notification]


@pytest.mark.parametrize("where", ["on_mail", "on_receiver", "on_data"])
def test_a_server_that_hangs_is_left_in_time(
    server: MailServer, alice: User, settings: Settings, where: str
) -> None:
    settings.EMAIL_TIMEOUT = 0.3
    getattr(server, where).append(HANG)
    notification = notification_of(alice)
    outbox.work()
    state, ((outcome, answer),) = state_of(notification)
    assert (state, outcome) == ("PENDING", "put_off")
    assert "timed out" in answer


def test_a_mail_that_was_dropped_comes_again_as_the_same_one(server: MailServer, alice: User) -> None:
    server.on_data = [DROP]
    notification = notification_of(alice)
    outbox.work()
    assert state_of(notification)[0] == "PENDING"
    make_due()
    outbox.work()
    assert state_of(notification)[0] == "SENT"
    ids = [mail.message["Message-ID"] for mail in server.received]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_a_server_that_is_not_there_is_tried_again(alice: User, settings: Settings) -> None:
    with MailServer() as gone:
        sends_to(gone, settings)
    notification = notification_of(alice)
    outbox.work()
    state, ((outcome, answer),) = state_of(notification)
    assert (state, outcome) == ("PENDING", "put_off")
    assert answer.startswith("ConnectionRefusedError")


def test_an_address_that_is_none_ends_at_once(server: MailServer, alice: User) -> None:
    User.objects.filter(id=alice.id).update(email="alice@example.com\r\nBcc: bob@example.com")
    notification = notification_of(alice)
    outbox.work()
    assert state_of(notification) == ("FAILED", [("refused", "The address is not valid.")])
    assert server.received == []


def test_a_long_answer_is_cut(server: MailServer, alice: User) -> None:
    server.on_receiver = ["550 " + "no " * 160]  # what a line of SMTP may hold
    notification = notification_of(alice)
    outbox.work()
    assert notification.deliveries.get().answer.startswith("550 no no")
    assert notification.record("sent", "x" * 5000, 0.1) is False  # type: ignore[arg-type]
    assert max(len(each.answer) for each in notification.deliveries.all()) == MAX_ANSWER


def test_a_mail_that_hangs_holds_up_no_other(server: MailServer, alice: User, settings: Settings) -> None:
    settings.EMAIL_TIMEOUT = 0.3
    server.on_receiver = [HANG]
    first, second = notification_of(alice), notification_of(alice)
    assert outbox.work() == 2
    assert (state_of(first)[0], state_of(second)[0]) == ("PENDING", "SENT")


# Connections


def test_mails_share_a_connection(server: MailServer, alice: User) -> None:
    for _ in range(5):
        notification_of(alice)
    assert outbox.work() == 5
    assert (len(server.received), server.connections) == (5, 1)


def test_a_server_that_ends_a_connection_after_some_mails_is_asked_again_at_once(
    server: MailServer, alice: User
) -> None:
    server.on_mail = ["250 OK", "250 OK", "421 4.7.0 Too many mails in one connection", "250 OK", "250 OK"]
    for _ in range(4):
        notification_of(alice)
    outbox.work()
    assert set(Notification.objects.values_list("state", flat=True)) == {"SENT"}
    assert (len(server.received), server.connections) == (4, 2)


def test_a_new_connection_that_is_ended_is_no_reason_to_insist(server: MailServer, alice: User) -> None:
    server.on_mail = ["421 4.3.2 Shutting down"]
    notification = notification_of(alice)
    outbox.work()
    assert state_of(notification) == ("PENDING", [("put_off", "421 4.3.2 Shutting down")])
    assert server.connections == 1


@pytest.mark.parametrize("what", [DROP, HANG])
def test_what_may_have_been_taken_is_not_sent_again_at_once(
    server: MailServer, alice: User, settings: Settings, what: str
) -> None:
    settings.EMAIL_TIMEOUT = 0.5
    server.on_data = [OK, what]
    first, second = notification_of(alice), notification_of(alice)
    outbox.work()
    assert state_of(first)[0] == "SENT"
    state, ((outcome, answer),) = state_of(second)
    assert (state, outcome, server.connections) == ("PENDING", "put_off", 1)
    assert answer.startswith("AnswerLostError: Connection unexpectedly closed")


@pytest.mark.parametrize("goodbye", [DROP, HANG, "500 What?", "221 " + "bye " * 3000])
def test_a_rude_goodbye_is_of_no_matter(
    server: MailServer, alice: User, settings: Settings, goodbye: str
) -> None:
    settings.EMAIL_TIMEOUT = 0.3
    server.on_quit = [goodbye]
    for _ in range(outbox.workplace.capacity + 1):
        notification = notification_of(alice)
        assert outbox.work() == 1
        assert state_of(notification)[0] == "SENT"


# Encryption and login


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    key, own = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own, key)
    return context


@pytest.mark.parametrize("is_implicit", [False, True], ids=["STARTTLS", "TLS"])
def test_it_is_encrypted_and_logs_in(
    alice: User,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    certificate: tuple[Path, Path],
    tls: ssl.SSLContext,
    is_implicit: bool,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    login = {"EMAIL_HOST_USER": "flows@example.com", "EMAIL_HOST_PASSWORD": PASSWORD}
    how = {"EMAIL_USE_TLS": not is_implicit, "EMAIL_USE_SSL": is_implicit}
    with MailServer(tls=tls, is_implicit=is_implicit, password=PASSWORD) as server:
        sends_to(server, settings, **login, **how)
        notification = notification_of(alice)
        outbox.work()
        assert state_of(notification)[0] == "SENT", state_of(notification)
        assert server.received[0].user == "flows@example.com"
        channel.close()


def test_a_certificate_that_nobody_signed_is_not_trusted(
    alice: User, settings: Settings, tls: ssl.SSLContext
) -> None:
    with MailServer(tls=tls) as server:
        sends_to(server, settings, EMAIL_USE_TLS=True)
        notification = notification_of(alice)
        outbox.work()
        state, ((_, answer),) = state_of(notification)
        assert (state, server.received) == ("PENDING", [])
        assert "CERTIFICATE_VERIFY_FAILED" in answer


@pytest.mark.parametrize("how", ["wrong password", "no TLS"])
def test_where_it_lets_us_not_in_the_mail_is_not_to_blame(
    alice: User, settings: Settings, tls: ssl.SSLContext, how: str
) -> None:
    needs = {"password": PASSWORD} if how == "wrong password" else {"tls": tls}
    with MailServer(**needs) as server:
        sends_to(server, settings, EMAIL_HOST_USER="flows", EMAIL_HOST_PASSWORD="wrong")
        notification = notification_of(alice)
        outbox.work()
        state, ((_, answer),) = state_of(notification)
        assert (state, server.received) == ("PENDING", [])
        assert answer.startswith("535" if how == "wrong password" else "SMTPNotSupportedError"), answer


@pytest.mark.parametrize(
    ("needs", "answer"),
    [("STARTTLS", "530 Must issue a STARTTLS command first"), ("login", "530 5.7.0 Authentication required")],
)
def test_what_a_server_wants_first_is_not_the_mails_fault(
    alice: User, settings: Settings, tls: ssl.SSLContext, needs: str, answer: str
) -> None:
    with MailServer(tls=tls) if needs == "STARTTLS" else MailServer(password=PASSWORD) as server:
        sends_to(server, settings)
        notification = notification_of(alice)
        outbox.work()
        assert state_of(notification) == ("PENDING", [("put_off", answer)])


# What is hostile


HOSTILE = [
    "Sum\r\nBcc: eve@example.com",
    "Sum\nBcc: eve@example.com",
    "Sum\rBcc: eve@example.com",
    "Sum\r\n\r\n<b>another body</b>",
    "Sum\x00null",
    "Sum\x0bvertical\x0cfeed",
    "Sum\x85next line",
    "Sum\u2028line\u2029paragraph",
    "=?utf-8?q?Sum=0D=0ABcc:_eve=40example.com?=",
    "=?utf-8?b?U3VtDQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ==?=",
    "Sum\r\n\tfolded: yes",
    "Sum\r\n.\r\nQUIT",
    ".\r\n",
    "x" * 5000,
    "Sum \u202egnp.exe",
    "Sum \u2066isolate\u2069",
    "🎉 Sum 🎉" * 30,
    "Sum \ud800 lone",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ settings.SECRET_KEY }} {% debug %}",
    "Sum, eve@example.com",
    '"Eve" <eve@example.com>',
    "Ñandú – “quoted” \\ back",
    "",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("failed", [False, True], ids=["result", "error"])
def test_what_is_hostile_arrives_inert(
    server: MailServer, alice: User, monkeypatch: pytest.MonkeyPatch, text: str, failed: bool
) -> None:
    stored = text.replace("\x00", "").encode(errors="ignore").decode()  # as far as PostgreSQL takes it
    User.objects.filter(id=alice.id).update(name=stored[:150])
    error = ErrorDetail(type="flow", message=stored, retryable=False)
    notification = notification_of(alice, **({"error": error} if failed else {"result": stored}))
    monkeypatch.setattr(Execution, "title", text)
    assert outbox.work() == 1
    assert state_of(notification)[0] == "SENT", state_of(notification)
    (mail,) = server.received
    assert mail.receivers == ["alice@example.com"]
    head = mail.raw.split(b"\r\n\r\n")[0].decode("ascii")
    names = [line.partition(":")[0] for line in head.split("\r\n") if not line.startswith((" ", "\t"))]
    assert sorted(names) == HEAD
    assert [address.addr_spec for address in mail.message["To"].addresses] == ["alice@example.com"]
    subject = str(mail.message["Subject"])
    assert subject.isprintable()
    assert len(subject) < 200
    for mark in ("<script", "<img", "<b>another"):
        assert mark not in mail.part("html")
    if "<script" in text:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in mail.part("html")
        assert text in mail.part("plain")


HEAD = sorted(
    [
        *("Content-Type", "MIME-Version", "Subject", "From", "To", "Date", "Message-ID"),
        *("List-Unsubscribe", "List-Unsubscribe-Post", "Auto-Submitted", "X-Auto-Response-Suppress"),
    ]
)


# By itself


def test_what_it_raises_says_whether_to_try_again(server: MailServer, alice: User) -> None:
    notification = notification_of(alice)
    server.on_receiver = ["450 Busy", "550 No"]
    with pytest.raises(PutOff, match="450 Busy"):
        channel.send(notification, letter(notification))
    with pytest.raises(Refused, match="550 No"):
        channel.send(notification, letter(notification))
    assert channel.send(notification, letter(notification)) == "250 OK: queued as 4F2"
