#!/usr/bin/env python
"""Django's command line; `make run` calls its `dev` command."""

import os
import sys

# These look at the code only: they need neither databases nor the settings of a server.
OFFLINE = {"help", "check", "makemigrations", "makemessages", "compilemessages", "startapp"}
# These are nothing without a database.
ONLINE = {
    "migrate",
    "showmigrations",
    "createsuperuser",
    "changepassword",
    "dbshell",
    "dumpdata",
    "loaddata",
    "flush",
}
START = "Start it with `make run` in another terminal, or set DATABASE_URL or POSTGRES_HOST, and REDIS_URL."


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if command == "dev":
        os.environ["DEVELOPMENT"] = "true"
    elif command in OFFLINE and "--deploy" not in sys.argv:
        os.environ.setdefault("DEVELOPMENT", "true")
        os.environ.setdefault("DATABASE_URL", "django.db.backends.dummy://")
    run(command)


def run(command: str) -> None:
    """Run the command; a database that is not there, or a setting, is a sentence and not a trace."""
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import OperationalError, connection
        from psycopg_pool import PoolTimeout
    except ModuleNotFoundError as error:
        sys.exit(f"This Python has no {error.name}. Use `make run`, or .venv/bin/python manage.py {command}.")

    from config.embedded import EmbeddedError

    try:
        if command in ONLINE | {"shell"} and is_database_down():
            sentence = f"The database is not running. {START}"
            if command in ONLINE:
                sys.exit(sentence)
            print(sentence, file=sys.stderr)
        execute_from_command_line(sys.argv)
    except (EmbeddedError, ImproperlyConfigured) as error:
        sys.exit(str(error))
    except (OperationalError, PoolTimeout):
        if not is_database_down():
            raise
        connection.close_pool()  # type: ignore[attr-defined]  # whose threads would go on to say why
        sys.exit(f"The database is not running. {START}")


def is_database_down() -> bool:
    """Whether the database is the embedded one, and nobody has started it."""
    from django.conf import settings

    from config import embedded

    database, local_dir = settings.DATABASES["default"], settings.LOCAL_DIR
    return embedded.is_embedded(database, local_dir) and not embedded.is_running(local_dir)


if __name__ == "__main__":
    main()
