"""E-mail: by SMTP, by a service that django-anymail knows, or in development into a folder."""

import smtplib
import threading
from contextlib import suppress
from email.utils import formataddr
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.validators import validate_email

from notifications.channels import NotSentError, PutOff, Refused
from notifications.letters import Letter, one_line
from notifications.models import Notification
from notifications.smtp import AnswerLostError

# What an SMTP server answers before it ends a connection, such as after so many mails.
CLOSING = 421
# By what it says that it wants encryption, or another login, first: it is our settings that are wrong, not the mail.
LETS_US_NOT_IN = (530, 534, 535, 538)
# HTTP statuses by which a service says that something else than the mail is wrong: its key, its limits, the moment.
NOT_THE_MAIL = (401, 402, 403, 408, 429)
# What django-anymail calls a mail that a service has taken.
TAKEN = {"sent", "queued"}


class Mail(EmailMultiAlternatives):
    """A mail with each field of its head in one line.

    Folded, the long words that ids and links are would come after an empty line, which not all receivers read.
    """

    def message(self, *args: Any, **kwargs: Any) -> Any:
        written = super().message(*args, **kwargs)
        written.policy = written.policy.clone(max_line_length=None)
        return written


class _Mine(threading.local):
    """What a thread keeps between two mails."""

    connection: Any = None


class Email:
    def __init__(self) -> None:
        self._mine = _Mine()

    def why_unavailable(self) -> str:
        return "" if settings.EMAIL_BACKEND else "no EMAIL_URL and no EMAIL_SERVICE: mails wait for one."

    def send(self, notification: Notification, letter: Letter) -> str:
        message = composed(notification, letter)
        is_used = self._mine.connection is not None
        try:
            try:
                return self._send(message)
            except smtplib.SMTPException as error:
                if not is_used or not _ends_connection(error):
                    raise
                return self._send(message)  # on a fresh one
        except NotSentError:
            raise
        except Exception as error:
            raise not_sent(error) from error

    def close(self) -> None:
        connection, self._mine.connection = self._mine.connection, None
        if connection is not None:
            with suppress(smtplib.SMTPException, OSError):  # whatever was sent was sent before the goodbye
                connection.close()

    def _send(self, message: Mail) -> str:
        try:
            if self._mine.connection is None:
                self._mine.connection = get_connection()
                self._mine.connection.open()
            message.connection = self._mine.connection
            message.send()
        except Exception:
            self.close()
            raise
        return answer_of(message)


channel = Email()


def composed(notification: Notification, letter: Letter) -> Mail:
    """Return a letter as a mail; raises Refused for an address that is none."""
    user = notification.user
    try:
        validate_email(user.email)
    except ValidationError:
        raise Refused("The address is not valid.") from None
    message = Mail(
        subject=one_line(letter.subject),
        body=letter.text,
        to=[formataddr((one_line(user.name), user.email)) if user.name else user.email],
        headers={
            "Message-ID": notification.message_id,
            "List-Unsubscribe": f"<{letter.unsubscribe}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "All",
        },
    )
    message.attach_alternative(letter.html, "text/html")
    return message


def answer_of(message: Mail) -> str:
    """Return what the other side said of a mail that it took; raises NotSentError where a service did not."""
    if status := getattr(message, "anymail_status", None):
        answer = f"{', '.join(sorted(status.status or []))} {status.message_id or ''}".strip()
        if status.status and not status.status <= TAKEN:
            raise (PutOff if "failed" in status.status else Refused)(answer)
        return answer
    return str(getattr(message.connection, "answer", ""))


def _ends_connection(error: smtplib.SMTPException) -> bool:
    """Say whether a connection ended before a mail was taken by it: then none arrives twice where it is sent again."""
    if isinstance(error, AnswerLostError):
        return False
    return isinstance(error, smtplib.SMTPServerDisconnected) or getattr(error, "smtp_code", 0) == CLOSING


def not_sent(error: Exception) -> Refused | PutOff:
    """Return why a mail was not sent, and whether it would be the next time."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            code, answer = next(iter(error.recipients.values()))
            return _answered(code, answer)
        case smtplib.SMTPAuthenticationError() | smtplib.SMTPConnectError() | smtplib.SMTPHeloError():
            return PutOff(_text(error.smtp_code, error.smtp_error))
        case smtplib.SMTPResponseException():
            return _answered(error.smtp_code, error.smtp_error)
        case ImproperlyConfigured():
            return PutOff(str(error))
    if type(error).__module__.startswith("anymail."):
        return _by_service(error)
    return PutOff(f"{type(error).__name__}: {error}")


def _by_service(error: Any) -> Refused | PutOff:
    """Judge an error of django-anymail: `status_code` is that of the service's answer, None without one."""
    from anymail.exceptions import AnymailInvalidAddress, AnymailRecipientsRefused

    status = getattr(error, "status_code", None) or 0
    if isinstance(error, AnymailInvalidAddress | AnymailRecipientsRefused):
        return Refused(str(error))
    is_final = 400 <= status < 500 and status not in NOT_THE_MAIL
    return (Refused if is_final else PutOff)(str(error))


def _answered(code: int, answer: bytes | str) -> Refused | PutOff:
    is_final = 500 <= code < 600 and code not in LETS_US_NOT_IN
    return (Refused if is_final else PutOff)(_text(code, answer))


def _text(code: int, answer: bytes | str) -> str:
    return f"{code} {answer.decode(errors='replace') if isinstance(answer, bytes) else answer}"
