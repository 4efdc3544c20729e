"""Signing in."""

from typing import Any

from django.contrib.auth.views import LoginView
from django.http import HttpResponse
from django.utils.translation import get_language


class SignIn(LoginView):
    template_name = "accounts/sign_in.html"

    def form_valid(self, form: Any) -> HttpResponse:
        """Learn the language of who signs in for the first time: mails are written when no browser is there to ask."""
        user = form.get_user()
        if not user.language:
            user.language = get_language() or ""
            user.save(update_fields=["language"])
        return super().form_valid(form)
