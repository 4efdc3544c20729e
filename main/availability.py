"""Which flows this server can run."""

from django.conf import settings
from django.utils.translation import gettext as _

from main.registry import Flow


def why_unavailable(flow: Flow) -> str:
    """Return the sentence that says which setting a flow lacks, or ""."""
    missing = [name for name in flow.requires if not getattr(settings, name, "")]
    if not missing:
        return ""
    needs = {"title": flow.title, "settings": ", ".join(missing)}
    return _("“%(title)s” needs %(settings)s, which this server has not set.") % needs
