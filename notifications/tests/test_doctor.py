"""What the doctor says about mail."""

from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django import Settings

from accounts.models import User
from main.database import clock
from main.management.commands.doctor import mail
from main.tests.rows import claimed
from notifications.models import Notification

pytestmark = pytest.mark.django_db


def test_it_says_where_mails_are_kept(settings: Settings) -> None:
    settings.EMAIL_URL, settings.EMAIL_SERVICE = "", ""
    settings.MAIL_FOLDER, settings.PUBLIC_URL = Path("/srv/mail"), "http://127.0.0.1:8000"
    assert mail().text == "kept in /srv/mail, for staff to read at http://127.0.0.1:8000/mailbox/"


def test_it_says_who_sends_them(settings: Settings) -> None:
    settings.EMAIL_URL, settings.EMAIL_SERVICE = "smtp://mail.example.com", ""
    settings.EMAIL_HOST, settings.EMAIL_PORT = "mail.example.com", 587
    settings.DEFAULT_FROM_EMAIL = "flows@example.com"
    assert mail().text == "mail.example.com:587, from flows@example.com."
    settings.EMAIL_SERVICE = "mailgun"
    assert mail().text == "mailgun, from flows@example.com."


def test_it_is_red_where_mails_wait_for_a_server(settings: Settings, alice: User) -> None:
    settings.EMAIL_BACKEND = ""
    assert mail().text == "no EMAIL_URL and no EMAIL_SERVICE: mails wait for one."
    assert not mail().cure
    claimed(owner=alice, notify=True).finish()
    assert mail().text.endswith(" 1 do.")
    assert mail().cure


def test_it_is_red_where_mails_are_due_and_nobody_takes_them(settings: Settings, alice: User) -> None:
    settings.EMAIL_URL, settings.EMAIL_SERVICE = "", ""
    claimed(owner=alice, notify=True).finish()
    assert not mail().cure, "it was due just now"
    Notification.objects.update(due_at=clock() - timedelta(minutes=2))
    assert mail().text == "1 mails have waited over 60 s."
    assert mail().cure
