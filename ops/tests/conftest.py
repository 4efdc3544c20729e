"""Who asks, and what there is to be asked about."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from main.models import Execution
from main.registry import load_flows
from main.tests.rows import claimed

AWAY = {"type": "unavailable", "message": "The provider is away.", "retryable": True}


@pytest.fixture(autouse=True)
def flows() -> None:
    load_flows(["main.flows", "main.tests.engine_flows"])


@pytest.fixture
def alice(db: None) -> User:
    """One of the staff, without any permission of the admin's."""
    return User.objects.create_user("alice@example.com", is_staff=True)


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob@example.com")


@pytest.fixture
def staff(alice: User, client: Client) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def ask(bob: User) -> Callable[..., int]:
    """Ask in a role; return the status, of what is refused after a look at how it is said."""

    def ask(role: str, method: str, address: str, body: Any = None) -> int:
        client = Client()
        if role != "visitor":
            roles: dict[str, Any] = {
                "user": {},
                "permitted user": {"is_superuser": True},
                "staff": {"is_staff": True},
                "inactive staff": {"is_staff": True, "is_active": False},
            }
            User.objects.filter(pk=bob.pk).update(**roles[role])
            client.force_login(bob)
        response = client.generic(method, address, body or "{}", content_type="application/json")
        if response.status_code >= 400:
            assert response.headers["Content-Type"] == "application/problem+json"
            assert response.json()["error"]
        return response.status_code

    return ask


def dead_letter(error: dict[str, Any] | None = None, **fields: Any) -> Execution:
    """An execution that failed; nothing else of its kind may be waiting."""
    execution = claimed(**fields)
    execution.finish(error={**AWAY, **(error or {})})  # type: ignore[arg-type]
    return Execution.objects.get(id=execution.id)
