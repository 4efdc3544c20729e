"""People sign in and out on the site's own pages; nobody needs to be staff."""

import pytest
from django.test import Client

from accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob@example.com", "a-long-password")


def test_a_user_who_is_no_staff_signs_in_and_goes_on_where_it_came_from(client: Client, bob: User) -> None:
    response = client.post(
        "/sign-in/", {"username": "Bob@Example.com", "password": "a-long-password", "next": "/docs/readme/"}
    )
    assert response.status_code == 302
    assert response["Location"] == "/docs/readme/"
    assert bob.email in client.get("/").content.decode()


def test_a_wrong_password_is_said_on_the_page(client: Client, bob: User) -> None:
    response = client.post("/sign-in/", {"username": bob.email, "password": "wrong"})
    assert response.status_code == 200
    assert 'role="alert"' in response.content.decode()
    assert "_auth_user_id" not in client.session


def test_nobody_is_sent_to_another_site(client: Client, bob: User) -> None:
    response = client.post(
        "/sign-in/", {"username": bob.email, "password": "a-long-password", "next": "https://example.org/"}
    )
    assert response["Location"] == "/"


def test_signing_out_leads_back_to_the_flows(client: Client, bob: User) -> None:
    client.force_login(bob)
    response = client.post("/sign-out/")
    assert response["Location"] == "/"
    assert "_auth_user_id" not in client.session
    assert client.get("/sign-out/").status_code == 405
