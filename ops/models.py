"""Executions as who operates the platform sees them. No tables: the rows are `main`'s, and so are the permissions."""

from django.utils.translation import gettext_lazy as _

from main.models import Execution


class DeadLetter(Execution):
    """What failed or expired and was neither run again nor dropped since."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")


class Queue(Execution):
    """What the admin sums up by kind and priority. See `ops.queues`."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
