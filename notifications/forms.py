"""What people may choose about being told."""

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from notifications.models import Preference


class PreferenceForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """To save it is to allow mails again, also after unsubscribing."""

    seconds = forms.IntegerField(
        label=_("Long is more than so many seconds"), min_value=1, max_value=7 * 24 * 3600, required=False
    )
    language = forms.ChoiceField(label=_("Language of mails"), choices=settings.LANGUAGES)

    class Meta:
        model = Preference
        fields = ("mode", "seconds")
        widgets = {"mode": forms.RadioSelect}

    def clean_seconds(self) -> int:
        seconds: int = self.cleaned_data["seconds"] or self.instance.seconds
        return seconds

    def save(self, commit: bool = True) -> Any:
        self.instance.unsubscribed_at = None
        user = self.instance.user
        user.language = self.cleaned_data["language"]
        user.save(update_fields=["language"])
        return super().save(commit)
