"""Django's SMTP, with a memory for what the server answered when it took a mail."""

import smtplib
from typing import Any

from django.core.mail.backends import smtp


class _Remembering(smtplib.SMTP):
    answer = ""

    def data(self, msg: Any) -> tuple[int, bytes]:
        code, said = super().data(msg)
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
