"""Makes the database ready, in a process of its own: migrations, and people who are signed in.

    python -m benchmarks.prepare COUNT

prints as JSON for each person their user's id, and their cookies.
"""

import os
import sys
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from accounts.models import User


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    people = [(str(user.pk), session_of(user)) for user in new_users(int(sys.argv[1]))]
    sys.stdout.buffer.write(orjson.dumps(people))


def new_users(count: int) -> "list[User]":
    """Make users with one password between them, which takes long to hash and which nobody knows."""
    from django.contrib.auth.hashers import make_password
    from django.utils.crypto import get_random_string

    from accounts.models import User

    password = make_password(get_random_string(20))
    addresses = (f"{get_random_string(16)}@example.com" for _ in range(count))
    return User.objects.bulk_create(User(email=address, password=password) for address in addresses)


def session_of(user: "User") -> dict[str, str]:
    """Return the session cookie of a user who has just signed in."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return {settings.SESSION_COOKIE_NAME: session.session_key or ""}


if __name__ == "__main__":
    main()
