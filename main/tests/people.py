"""Users whom the platform's processes can see, and how they sign in."""

import uuid

import pytest

from accounts.models import User
from main.tests.platform import Platform, Visitor

PASSWORD = "correct horse battery"


@pytest.fixture
def alice(platform: Platform) -> User:
    return User.objects.create_user(f"alice-{uuid.uuid4().hex}@example.com", PASSWORD)


def sign_in(visitor: Visitor, user: User) -> None:
    fields = {
        "username": user.email,
        "password": PASSWORD,
        "csrfmiddlewaretoken": visitor.cookies["csrftoken"],
    }
    response = visitor.post("/sign-in/", data=fields)
    assert response.status_code == 302, response.text
    visitor.headers["X-CSRFToken"] = visitor.cookies["csrftoken"]
