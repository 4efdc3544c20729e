"""Makes the database ready, in a process of its own: migrations, and one person who can sign in.

python -m chaos.prepare
"""

import os

ADDRESS = "alice@example.com"
PASSWORD = "alice in the chaos"  # noqa: S105 — the world lives for minutes, on this machine alone


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    from accounts.models import User

    User.objects.create_user(ADDRESS, PASSWORD)


if __name__ == "__main__":
    main()
