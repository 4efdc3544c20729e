"""Mails that are kept in a folder."""

from pathlib import Path

import pytest
from django.core.mail import EmailMultiAlternatives
from pytest_django import Settings

from notifications import mail_folder
from notifications.mail_folder import EmailBackend


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    settings.MAIL_FOLDER = tmp_path / "mail"
    return tmp_path / "mail"


def keep(subject: str, message_id: str = "<1@example.com>") -> None:
    headers = {"Message-ID": message_id}
    mail = EmailMultiAlternatives(
        subject, "The città", "ctm@example.com", ["alice@example.com"], headers=headers
    )
    mail.attach_alternative("<p>The città</p>", "text/html")
    assert EmailBackend().send_messages([mail]) == 1


def test_the_newest_is_first() -> None:
    for subject in ("one", "two", "three"):
        keep(subject)
    assert [mail.message["Subject"] for mail in mail_folder.newest()] == ["three", "two", "one"]
    times = [mail.at for mail in mail_folder.newest()]
    assert times == sorted(times, reverse=True)


def test_a_mail_is_read_as_it_was_written() -> None:
    keep("Città: finished")
    (name,) = (mail.name for mail in mail_folder.newest())
    mail = mail_folder.read(name)
    assert mail
    assert (mail.message["Subject"], mail.message["To"]) == ("Città: finished", "alice@example.com")
    assert (mail.text.strip(), mail.html.strip()) == ("The città", "<p>The città</p>")


def test_the_same_mail_is_seen_as_the_same_one() -> None:
    for message_id in ("<1@example.com>", "<1@example.com>", "<2@example.com>"):
        keep("Sum", message_id)
    other, again, first = (mail.name.partition("-")[2] for mail in mail_folder.newest())
    assert (first, again) == ("72107cb5", "72107cb5")  # in every process
    assert other != first


def test_there_may_be_no_folder_yet() -> None:
    assert mail_folder.newest() == []


def test_mails_are_for_who_runs_the_server_alone(folder: Path) -> None:
    keep("Sum")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_half_written_is_not_shown(folder: Path) -> None:
    keep("Sum")
    (folder / f"{'9' * 20}-00000000.new").write_bytes(b"Subject: hal")
    assert [mail.message["Subject"] for mail in mail_folder.newest()] == ["Sum"]


@pytest.mark.parametrize(
    "name", ["../secret", "secret", f"../{'1' * 20}-0000000a", "1" * 20 + "-0000000a\n", ""]
)
def test_what_is_no_mail_is_not_read(folder: Path, name: str) -> None:
    keep("Sum")
    for path in (
        folder.parent / "secret.eml",
        folder / "secret.eml",
        folder.parent / f"{'1' * 20}-0000000a.eml",
    ):
        path.write_text("Subject: secret")
    assert mail_folder.read(name) is None
    assert [mail.message["Subject"] for mail in mail_folder.newest()] == ["Sum"]
