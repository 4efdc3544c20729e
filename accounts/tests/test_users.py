"""Users: known by e-mail address in any case."""

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from accounts.models import User

PASSWORD = "correct horse battery"


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("Alice@example.com", PASSWORD, name="Alice")


def test_a_user_has_a_uuid_and_no_rights(alice: User) -> None:
    assert alice.pk.version == 4
    assert not alice.is_staff
    assert not alice.is_superuser
    assert (str(alice), alice.get_full_name()) == ("Alice@example.com", "Alice")


def test_a_superuser_is_staff(db: None) -> None:
    bob = User.objects.create_superuser("bob@example.com", PASSWORD)
    assert bob.is_staff
    assert bob.is_superuser


@pytest.mark.parametrize("address", ["Alice@example.com", "alice@example.com", "ALICE@EXAMPLE.COM"])
def test_the_case_of_the_address_does_not_matter_at_sign_in(alice: User, address: str) -> None:
    assert authenticate(username=address, password=PASSWORD) == alice


@pytest.mark.parametrize(
    ("address", "password"),
    [
        ("alice@example.com", PASSWORD.upper()),
        ("alice@example.com", ""),
        ("al_ce@example.com", PASSWORD),
        ("%", PASSWORD),
        ("", PASSWORD),
        ("bob@example.com", PASSWORD),
    ],
)
def test_a_wrong_password_or_address_signs_nobody_in(alice: User, address: str, password: str) -> None:
    assert authenticate(username=address, password=password) is None


def test_an_inactive_user_cannot_sign_in(alice: User) -> None:
    alice.is_active = False
    alice.save()
    assert authenticate(username=alice.email, password=PASSWORD) is None


def test_an_address_is_taken_once_in_any_case(alice: User) -> None:
    with pytest.raises(IntegrityError, match="user_email_any_case"), transaction.atomic():
        User.objects.create_user("aLICE@example.com", PASSWORD)
    with pytest.raises(ValidationError, match="There is already a user with this address"):
        User(email="aLICE@example.com", password="x").full_clean()


def test_a_user_needs_an_address(db: None) -> None:
    with pytest.raises(ValueError, match="needs an e-mail address"):
        User.objects.create_user("")


def test_createsuperuser_takes_an_address_and_refuses_one_that_is_taken(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    call_command("createsuperuser", interactive=False, email="Bob@example.com", verbosity=0)
    assert User.objects.get(email="Bob@example.com").is_superuser
    with pytest.raises(CommandError, match="already taken"):
        call_command("createsuperuser", interactive=False, email="bob@example.com", verbosity=0)
