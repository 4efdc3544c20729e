"""Users in the admin: made with address and password, found, changed."""

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from accounts.models import User

PASSWORD = "correct horse battery"
ADD = "/admin/accounts/user/add/"


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_superuser("Alice@example.com", PASSWORD)


@pytest.fixture
def admin_pages(alice: User, client: Client) -> Client:
    client.force_login(alice)
    return client


def added(client: Client, email: str, password: str = PASSWORD, again: str | None = None) -> str:
    """Send the form that adds a user; return the page it answers with, "" where the user was made."""
    data = {
        "email": email,
        "usable_password": "true",
        "password1": password,
        "password2": password if again is None else again,
    }
    response = client.post(ADD, data)
    assert response.status_code in (200, 302)
    return response.content.decode()


def page_of(user: User) -> str:
    return reverse("admin:accounts_user_change", args=[user.pk])


@pytest.mark.parametrize("address", ["Alice@example.com", "alice@EXAMPLE.com", " alice@example.com "])
def test_staff_sign_in_with_the_address_in_any_case(alice: User, client: Client, address: str) -> None:
    response = client.post("/admin/login/", {"username": address, "password": PASSWORD, "next": "/admin/"})
    assert response.headers.get("Location") == "/admin/"
    assert "Alice@example.com" in client.get("/admin/").content.decode()


def test_a_wrong_password_is_a_sentence(alice: User, client: Client) -> None:
    response = client.post("/admin/login/", {"username": "alice@example.com", "password": "wrong"})
    assert response.status_code == 200
    assert "Please enter the correct e-mail address and password" in response.content.decode()


def test_a_user_is_made_with_address_and_password_and_can_sign_in(admin_pages: Client) -> None:
    assert added(admin_pages, "Bob@Example.com") == ""
    bob = User.objects.get(email__iexact="bob@example.com")
    assert bob.check_password(PASSWORD)
    assert not bob.is_staff
    assert Client().login(username="BOB@example.com", password=PASSWORD)


@pytest.mark.parametrize("address", ["Alice@example.com", "ALICE@example.com", "alice@EXAMPLE.COM"])
def test_an_address_that_is_taken_is_refused_with_one_sentence(admin_pages: Client, address: str) -> None:
    page = added(admin_pages, address)
    assert page.count("There is already a user with this address.") == 1
    assert "already exists" not in page
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    ("password", "again", "sentence"),
    [
        ("short", None, "This password is too short."),
        ("password1234", None, "This password is too common."),
        ("bob@example.com", None, "The password is too similar to the e-mail address."),
        (PASSWORD, "another horse battery", "The two password fields didn’t match."),
    ],
)
def test_a_weak_password_is_refused_with_a_sentence(
    admin_pages: Client, password: str, again: str | None, sentence: str
) -> None:
    assert sentence in added(admin_pages, "bob@example.com", password, again)
    assert User.objects.count() == 1


def test_no_address_is_refused_with_a_sentence(admin_pages: Client) -> None:
    assert "This field is required." in added(admin_pages, "")
    assert "Enter a valid email address." in added(admin_pages, "bob")


def test_a_user_is_changed_and_cannot_take_another_s_address(admin_pages: Client) -> None:
    bob = User.objects.create_user("bob@example.com", PASSWORD)
    assert admin_pages.post(page_of(bob), {"email": "BOB@example.com", "name": "Bob"}).status_code == 302
    bob.refresh_from_db()
    assert (bob.email, bob.name, bob.is_active) == ("BOB@example.com", "Bob", False)
    page = admin_pages.post(page_of(bob), {"email": "ALICE@example.com"}).content.decode()
    assert page.count("There is already a user with this address.") == 1


def test_staff_change_their_own_password(admin_pages: Client, alice: User) -> None:
    new = "another horse battery"
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert admin_pages.get("/admin/password_change/").status_code == 200
    response = admin_pages.post("/admin/password_change/", data, follow=True)
    assert "Your password was changed." in response.content.decode()
    alice.refresh_from_db()
    assert alice.check_password(new)
    assert admin_pages.get("/admin/").status_code == 200


def test_staff_change_another_s_password(admin_pages: Client) -> None:
    bob = User.objects.create_user("bob@example.com", PASSWORD)
    address = reverse("admin:auth_user_password_change", args=[bob.pk])
    assert 'href="../password/"' in admin_pages.get(page_of(bob)).content.decode()
    assert admin_pages.get(address).status_code == 200
    new = "another horse battery"
    data = {"usable_password": "true", "password1": new, "password2": new}
    assert admin_pages.post(address, data).status_code == 302
    bob.refresh_from_db()
    assert bob.check_password(new)


def test_users_are_found_by_address_and_name(admin_pages: Client) -> None:
    User.objects.create_user("bob@example.com", name="Robert Smith")
    for query in ("BOB@", "robert"):
        found = admin_pages.get("/admin/accounts/user/", {"q": query}).context["cl"].result_list
        assert [user.email for user in found] == ["bob@example.com"]


def test_the_list_costs_the_same_for_3_and_for_30_users(
    admin_pages: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (2, 27):
        User.objects.bulk_create(User(email=f"{count}-{number}@example.com") for number in range(count))
        # Session, user, the groups to filter by, how many (twice: found and all), the users.
        with django_assert_num_queries(6):
            admin_pages.get("/admin/accounts/user/")
