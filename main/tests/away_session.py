"""A session engine whose database is away whenever it saves."""

from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.db import OperationalError


class SessionStore(DatabaseSession):
    def save(self, must_create: bool = False) -> None:
        raise OperationalError("the server closed the connection unexpectedly")
