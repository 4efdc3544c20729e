"""What tests of the admin's pages have in common, in whichever app they are."""

from collections.abc import Iterable

import pytest
from django.contrib.auth.models import Permission
from django.db.models import Model
from django.test import Client

from accounts.models import User

# What staff may do who have some permissions: look at a page (its status), and act.
STAFF = pytest.mark.parametrize(
    ("permissions", "look", "operate"),
    [
        ([], 403, False),
        (["view_execution"], 200, False),
        (["change_execution"], 200, True),
        (["view_execution", "change_execution"], 200, True),
        (["view_execution", "delete_execution", "add_execution"], 200, False),
    ],
)


def permit(user: User, permissions: Iterable[str]) -> None:
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def messages_of(client: Client, address: str, **data: str | list[str]) -> list[str]:
    """Post, and return what the page that comes then has to say."""
    response = client.post(address, data, follow=True)
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


def act(client: Client, address: str, action: str, *rows: Model) -> list[str]:
    """Do an action for what is selected in the list at that address; return what is said."""
    return messages_of(client, address, action=action, _selected_action=[str(each.pk) for each in rows])


def expect_sign_in(client: Client, addresses: Iterable[str]) -> None:
    for address in addresses:
        response = client.post(address)
        assert response.status_code == 302
        assert response.headers["Location"].startswith("/admin/login/")


def expect_nothing_inline(page: str) -> None:
    """The content security policy would leave it out."""
    for text in ("<style", " style=", " onclick=", "<script>"):
        assert text not in page
