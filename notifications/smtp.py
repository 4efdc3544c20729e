"""Django's SMTP, with a memory for what the server answered when it took a mail."""

import smtplib
from typing import Any

from django.core.mail.backends import smtp


class AnswerLostError(smtplib.SMTPServerDisconnected):
    """The connection ended, or the server fell silent, while it was given a mail: nobody knows whether it took it."""


class _Remembering(smtplib.SMTP):
    answer = ""

    def data(self, msg: Any) -> tuple[int, bytes]:
        try:
            code, said = super().data(msg)
        except smtplib.SMTPServerDisconnected as error:
            raise AnswerLostError(*error.args) from error
        self.answer = f"{code} {said.decode(errors='replace')}"
        return code, said


class _RememberingSSL(_Remembering, smtplib.SMTP_SSL):
    pass


class EmailBackend(smtp.EmailBackend):
    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        return _RememberingSSL if self.use_ssl else _Remembering

    @property
    def answer(self) -> str:
        """What the server said to the last mail."""
        return getattr(self.connection, "answer", "")
