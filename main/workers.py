"""Which worker processes are there, and how much they run at once."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from main.database import fetch

# A worker looks for work every 2 s; one that is silent for this many seconds is gone, or its database is.
SILENCE = 15


class WorkerBeat(models.Model):
    """A worker process, and when it last asked the database for work. `manage.py doctor` reads it."""

    name = models.CharField(_("name"), primary_key=True, max_length=200)
    kind = models.CharField(_("kind"), max_length=20)
    beat_at = models.DateTimeField(_("last asked for work"))
    capacity = models.PositiveIntegerField(_("places"), db_default=1)
    # Threads in a call that does not end, after their run was given up.
    stuck = models.PositiveIntegerField(_("stuck threads"), db_default=0)

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return self.name

    @classmethod
    def beat(cls, name: str, kind: str, capacity: int = 1, stuck: int = 0) -> None:
        """Say that a worker process is there, how much it runs at once, and how many of its threads are stuck."""
        fetch(
            "INSERT INTO main_workerbeat (name, kind, beat_at, capacity, stuck) "
            "VALUES (%s, %s, clock_timestamp(), %s, %s) ON CONFLICT (name) DO UPDATE SET "
            "beat_at = excluded.beat_at, capacity = excluded.capacity, stuck = excluded.stuck RETURNING 1",
            [name, kind, capacity, stuck],
        )

    @classmethod
    def sign_off(cls, worker: str) -> None:
        """Forget a worker process and its children, which have stopped."""
        cls.objects.filter(name__startswith=worker).delete()

    @classmethod
    def places_by_kind(cls) -> dict[str, int]:
        """Return by kind how much the workers that are there run at once."""
        rows = fetch(
            "SELECT kind, sum(capacity) FROM main_workerbeat "
            "WHERE beat_at > clock_timestamp() - %s * interval '1 second' GROUP BY kind",
            [SILENCE],
        )
        return {kind: int(places) for kind, places in rows}

    @classmethod
    def prune(cls) -> None:
        """Forget workers that have been silent for an hour."""
        fetch(
            "DELETE FROM main_workerbeat WHERE beat_at < clock_timestamp() - interval '1 hour' RETURNING 1",
            [],
        )
