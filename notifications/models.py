"""The outbox: what is to be sent to whom, every try to send it, and what people want to be told.

A notification is a row, written in the transaction that ends its execution. State moves only here, each time by one
conditional UPDATE, by the database's clock:

    PENDING ──claim_next──▶ SENDING ──record──▶ SENT | FAILED
     │ ▲  ▲                  │  │
     │ │  └──── hand_back ───┘  └── record: put off, take_back (the lease ran out) ──▶ PENDING
     │ └── send_again ── SENT | FAILED | SKIPPED
     └── gather ──▶ DIGESTED, skip ──▶ SKIPPED

A worker that claimed one may be gone while its mail is under way, so what is sent is sent at least once; its
`message_id` stays the same, by which a receiver sees the second as the first.
"""

import random
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.timezone import now
from django.utils.translation import gettext_lazy as _

from main import bells
from main.database import clock, execute, fetch
from main.models import Execution

# The Celery task, and the queue that it alone is in.
TASK, QUEUE = "notifications.send", "notifications"
# Seconds a claim holds without being renewed.
LEASE = 15
# Seconds that a page which watched the end has to say so, before who was away is told.
WATCHED_WITHIN = 20
# Seconds between two tries at most; and by which share of itself a pause may be longer, so that not all come at once.
LONGEST_PAUSE = 3600
JITTER = 0.25
# Characters of a server's answer that are kept.
MAX_ANSWER = 1024
# How many of what waits one digest sums up at most.
MAX_DIGEST = 10_000
# How many old digests one sweep deletes.
PRUNED_AT_ONCE = 200
# The class of the advisory locks on receivers; any number that nothing else in this database uses.
RECEIVER_LOCK = 731_562_003


class Preference(models.Model):
    """When a user is told of ends that they did not ask to be told of."""

    class Mode(models.TextChoices):
        NEVER = "never", _("Only when I ask for it")
        FAILURES = "failures", _("When one fails")
        LONG = "long", _("When one took long and I did not watch it to its end")

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="notification_preference"
    )
    mode = models.CharField(_("mail me"), max_length=10, choices=Mode.choices, default=Mode.NEVER)
    seconds = models.PositiveIntegerField(_("long is more than so many seconds"), default=60)
    # From then on nothing is sent, also where it is asked for.
    unsubscribed_at = models.DateTimeField(_("unsubscribed"), null=True, blank=True)

    class Meta:
        verbose_name = _("notification preference")
        verbose_name_plural = _("notification preferences")

    def __str__(self) -> str:
        return f"{self.user}: {self.get_mode_display()}"

    @classmethod
    def of(cls, user: Any) -> "Preference":
        """Return a user's preference, or what holds without one."""
        return cls.objects.filter(user=user).first() or cls(user=user)

    @classmethod
    def unsubscribe(cls, user_id: uuid.UUID) -> None:
        """Let nothing be sent to a user any more, what waits included."""
        with transaction.atomic():
            cls.objects.update_or_create(user_id=user_id, defaults={"unsubscribed_at": Now()})
            waiting = Notification.objects.filter(user_id=user_id, state=Notification.State.PENDING)
            waiting.update(state=Notification.State.SKIPPED, note=UNSUBSCRIBED, finished_at=Now())


UNSUBSCRIBED = "The receiver has unsubscribed."
NO_ACCOUNT = "The receiver has no active account any more."
WATCHED = "Its owner watched it to the end."


class Notification(models.Model):
    """What one person is to be told, by one channel."""

    class State(models.TextChoices):
        PENDING = "PENDING", _("waiting")
        SENDING = "SENDING", _("being sent")
        SENT = "SENT", _("sent")
        FAILED = "FAILED", _("not delivered")
        DIGESTED = "DIGESTED", _("in a digest")
        SKIPPED = "SKIPPED", _("not sent")

    class Event(models.TextChoices):
        ENDED = "ended", _("an execution ended")
        DIGEST = "digest", _("many executions ended")

    class Reason(models.TextChoices):
        ASKED = "asked", _("it was asked for")
        FAILED = "failed", _("it failed")
        LONG = "long", _("it took long")
        MANY = "many", _("there were many")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, verbose_name=_("receiver"), related_name="notifications"
    )
    # None for a digest.
    execution = models.ForeignKey(
        Execution,
        models.CASCADE,
        verbose_name=_("execution"),
        null=True,
        blank=True,
        related_name="notifications",
    )
    event = models.CharField(_("event"), max_length=10, choices=Event.choices)
    channel = models.CharField(_("channel"), max_length=20)
    reason = models.CharField(_("reason"), max_length=10, choices=Reason.choices)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.PENDING)
    # Why nothing was sent.
    note = models.CharField(_("note"), max_length=200, blank=True)
    # The one that this is summed up in.
    digest = models.ForeignKey(
        "self",
        models.CASCADE,
        verbose_name=_("digest"),
        null=True,
        blank=True,
        related_name="members",
    )
    attempt = models.PositiveIntegerField(_("attempts"), default=0)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    lease_until = models.DateTimeField(_("lease until"), null=True, blank=True)
    claimed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(_("created"), db_default=Now())
    due_at = models.DateTimeField(_("due"), db_default=Now())
    first_tried_at = models.DateTimeField(_("first tried"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    # When its dead letter was sent again or dropped.
    settled_at = models.DateTimeField(_("settled"), null=True, blank=True)

    class Meta:
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        ordering = ("-created_at",)
        indexes = (
            models.Index(
                fields=("due_at",), condition=models.Q(state="PENDING"), name="notification_waiting"
            ),
            models.Index(
                fields=("lease_until",), condition=models.Q(state="SENDING"), name="notification_leases"
            ),
            models.Index(
                fields=("user", "channel", "due_at"),
                condition=models.Q(state="PENDING"),
                name="notification_receiver",
            ),
            models.Index(
                fields=("user", "channel", "first_tried_at"),
                condition=models.Q(first_tried_at__isnull=False),
                name="notification_sent_lately",
            ),
            models.Index(
                fields=("-finished_at",),
                condition=models.Q(state="FAILED", settled_at__isnull=True),
                name="notification_dead_letters",
            ),
            models.Index(fields=("-created_at",), name="notification_newest"),
            models.Index(
                fields=("finished_at",), condition=models.Q(event="digest"), name="notification_old_digests"
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("execution", "event", "user", "channel"),
                condition=models.Q(execution__isnull=False),
                name="notification_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.event} {self.execution_id or self.id}"

    def get_absolute_url(self) -> str:
        return reverse("admin:notifications_notification_change", args=[self.id])

    @property
    def message_id(self) -> str:
        """What the mail is known by to servers and receivers, the same in every try."""
        domain = urlsplit(settings.PUBLIC_URL).hostname
        return f"<{self.execution_id or self.id}.{self.event}.{self.user_id}@{domain}>"

    # Written

    @classmethod
    def write(cls, ids: Sequence[uuid.UUID]) -> int:
        """Write what the owners of executions, which have just ended, want to be told; return how much that was.

        One statement, in the transaction that ends them. A user without an address, or without access, is told
        nothing.
        """
        rows = fetch(
            """
            INSERT INTO notifications_notification
                (id, user_id, execution_id, event, channel, reason, state, note, attempt, worker, due_at)
            SELECT gen_random_uuid(), owner.id, ended.id, 'ended', 'email', wanted.reason, 'PENDING', '', 0, '',
                clock_timestamp() + (CASE wanted.reason WHEN 'long' THEN %(watched)s ELSE 0 END) * interval '1 second'
            FROM main_execution ended
            JOIN accounts_user owner ON owner.id = ended.owner_id AND owner.is_active AND owner.email <> ''
            LEFT JOIN notifications_preference preference ON preference.user_id = owner.id
            CROSS JOIN LATERAL (
                SELECT CASE
                    WHEN preference.unsubscribed_at IS NOT NULL THEN NULL
                    WHEN ended.notify THEN 'asked'
                    WHEN preference.mode = 'failures' AND ended.state = 'FAILURE' THEN 'failed'
                    WHEN preference.mode = 'long'
                        AND ended.finished_at - ended.started_at > preference.seconds * interval '1 second'
                        THEN 'long'
                END AS reason
            ) wanted
            WHERE ended.id = ANY(%(ids)s) AND wanted.reason IS NOT NULL
            ON CONFLICT DO NOTHING
            RETURNING 1
            """,
            {"ids": list(ids), "watched": WATCHED_WITHIN},
        )
        return len(rows)

    @classmethod
    def note_watched(cls, execution: Execution) -> bool:
        """Note that an owner saw the end: they need not be told that it took long. Say whether they would be."""
        waiting = cls.objects.filter(
            execution=execution,
            user=execution.owner_id,
            state=cls.State.PENDING,
            reason=cls.Reason.LONG,
            attempt=0,
        )
        return bool(waiting.update(state=cls.State.SKIPPED, note=WATCHED, finished_at=clock()))

    # Claimed

    @classmethod
    def claim_next(cls, worker: str, channels: Iterable[str]) -> "Notification | None":
        """Take what is due next on some channels, or None. Two workers never get the same one.

        Who was sent as much lately as the limit allows waits; what has gathered for somebody is summed up.
        """
        names = list(channels)
        while True:
            with transaction.atomic():
                head = cls._head(names)
                if head is None:
                    return None
                if found := head._within_limits():
                    return found._claim(worker)

    @classmethod
    def _head(cls, channels: list[str]) -> "Notification | None":
        due = cls.objects.filter(state=cls.State.PENDING, channel__in=channels, due_at__lte=Now())
        return due.select_for_update(skip_locked=True).order_by("due_at").first()

    def _within_limits(self) -> "Notification | None":
        """Return what is to be sent to this one's receiver: itself, or a digest; None where it has to wait."""
        limit = settings.MAILS_PER_RECEIVER
        if not limit or self.first_tried_at:  # it was counted when it was tried first
            return self
        fetch("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [RECEIVER_LOCK, str(self.user_id)])
        theirs = Notification.objects.filter(user=self.user_id, channel=self.channel)
        lately = theirs.filter(first_tried_at__gt=Now() - timedelta(seconds=settings.MAIL_PERIOD))
        tried = [
            each.first_tried_at for each in lately.order_by("-first_tried_at").only("first_tried_at")[:limit]
        ]
        if len(tried) == limit and tried[-1]:
            self._wait_until(tried[-1] + timedelta(seconds=settings.MAIL_PERIOD))
            return None
        if self.attempt:  # it is sent again: summed up it would be another mail
            return self
        left = limit - len(tried)
        due = theirs.filter(state=self.State.PENDING, attempt=0, due_at__lte=clock())
        waiting = due.select_for_update(skip_locked=True).order_by("due_at").values_list("id", flat=True)
        if len(waiting[: left + 1]) <= left:
            return self
        return self._gather(list(waiting[:MAX_DIGEST]))

    def _wait_until(self, moment: datetime) -> None:
        """Put off all that waits for this one's receiver, so that it is in nobody's way meanwhile."""
        execute(
            """
            UPDATE notifications_notification SET due_at = %s WHERE id IN (
                SELECT id FROM notifications_notification
                WHERE user_id = %s AND channel = %s AND state = 'PENDING' AND first_tried_at IS NULL AND due_at < %s
                FOR UPDATE SKIP LOCKED
            )
            """,
            [moment, self.user_id, self.channel, moment],
        )

    def _gather(self, ids: list[uuid.UUID]) -> "Notification":
        """Sum up what waits in one."""
        digest = Notification.objects.create(
            user_id=self.user_id, channel=self.channel, event=self.Event.DIGEST, reason=self.Reason.MANY
        )
        Notification.objects.filter(id__in=ids).update(
            state=self.State.DIGESTED, digest=digest, finished_at=clock()
        )
        return digest

    def _claim(self, worker: str) -> "Notification":
        claimed = Notification.objects.raw(
            """
            UPDATE notifications_notification SET
                state = 'SENDING', attempt = attempt + 1, worker = %s, claimed_at = clock_timestamp(),
                lease_until = clock_timestamp() + %s * interval '1 second',
                first_tried_at = coalesce(first_tried_at, clock_timestamp())
            WHERE id = %s RETURNING *
            """,
            [worker, LEASE, self.id],
        )
        return claimed[0]

    @classmethod
    def renew_leases(cls, held: Sequence[tuple[uuid.UUID, int]]) -> None:
        """Keep what a worker process is sending, by id and attempt. (Its name may be that of one that died before.)"""
        execute(
            """
            UPDATE notifications_notification AS notification
            SET lease_until = clock_timestamp() + %s * interval '1 second'
            FROM unnest(%s::uuid[], %s::int[]) AS held(id, attempt)
            WHERE notification.id = held.id AND notification.attempt = held.attempt AND state = 'SENDING'
            """,
            [LEASE, [claim[0] for claim in held], [claim[1] for claim in held]],
        )

    @classmethod
    def hand_back(cls, worker: str) -> int:
        """Give back what a worker process, which stops, is still sending; return how much that was."""
        return cls._give_back("worker = %s", [worker], "The worker stopped.")

    @classmethod
    def take_back(cls) -> int:
        """Put back what a worker was sending whose lease ran out; return how much that was."""
        return cls._give_back("lease_until < clock_timestamp()", [], "The worker died, or was cut off.")

    @classmethod
    def _give_back(cls, condition: str, parameters: list[Any], why: str) -> int:
        """Nobody knows whether these were sent: they are tried again, and ended where they were for long enough."""
        rows = fetch(
            f"""
            WITH theirs AS (
                SELECT id, first_tried_at < clock_timestamp() - %s * interval '1 hour' AS is_late
                FROM notifications_notification WHERE state = 'SENDING' AND {condition}
                FOR UPDATE SKIP LOCKED
            ), back AS (
                UPDATE notifications_notification AS notification SET
                    lease_until = NULL, worker = '', due_at = clock_timestamp(),
                    state = CASE WHEN is_late THEN 'FAILED' ELSE 'PENDING' END,
                    finished_at = CASE WHEN is_late THEN clock_timestamp() END
                FROM theirs WHERE notification.id = theirs.id
                RETURNING notification.id, attempt, claimed_at
            )
            INSERT INTO notifications_delivery (notification_id, attempt, at, outcome, answer, seconds)
            SELECT id, attempt, claimed_at, 'unknown', %s,
                extract(epoch FROM clock_timestamp() - claimed_at) FROM back
            RETURNING 1
            """,  # noqa: S608 — our own texts
            [settings.MAIL_RETRY_HOURS, *parameters, why],
        )
        return len(rows)

    # Ended

    def record(self, outcome: "Delivery.Outcome", answer: str, seconds: float) -> bool:
        """Note how a try of this attempt went, and what follows from it; say whether it was still this attempt's."""
        with transaction.atomic():
            noted = self._follow(outcome)
            Delivery.objects.create(
                notification=self,
                attempt=self.attempt,
                at=self.claimed_at or now(),
                outcome=outcome,
                answer=answer.encode(errors="replace").decode().replace("\x00", "")[:MAX_ANSWER],
                seconds=seconds,
            )
        return noted

    def _follow(self, outcome: "Delivery.Outcome") -> bool:
        mine = Notification.objects.filter(id=self.id, attempt=self.attempt, state=self.State.SENDING)
        ended = {"lease_until": None, "finished_at": clock()}
        if outcome == Delivery.Outcome.SENT:
            return bool(mine.update(state=self.State.SENT, **ended))
        if outcome == Delivery.Outcome.REFUSED:
            return bool(mine.update(state=self.State.FAILED, **ended))
        long_ago = clock() - timedelta(hours=settings.MAIL_RETRY_HOURS)
        if mine.filter(first_tried_at__lt=long_ago).update(state=self.State.FAILED, **ended):
            return True
        due = clock() + timedelta(seconds=pause(self.attempt))
        return bool(mine.update(state=self.State.PENDING, lease_until=None, worker="", due_at=due))

    def skip(self, note: str) -> bool:
        """End this attempt without a try, because nothing is to be sent to its receiver any more."""
        mine = Notification.objects.filter(id=self.id, attempt=self.attempt, state=self.State.SENDING)
        return bool(mine.update(state=self.State.SKIPPED, note=note, lease_until=None, finished_at=clock()))

    def send_again(self) -> bool:
        """Send what was sent, or could not be; say whether this call did it. The receiver may get it twice."""
        ended = Notification.objects.filter(
            id=self.id, state__in=(self.State.SENT, self.State.FAILED, self.State.SKIPPED)
        )
        with transaction.atomic():
            again = bool(
                ended.update(
                    state=self.State.PENDING,
                    note="",
                    due_at=clock(),
                    first_tried_at=None,
                    finished_at=None,
                    settled_at=None,
                )
            )
            if again:
                ring()
        return again

    def settle(self) -> bool:
        """Take what could not be delivered off the dead letters; say whether this call did it."""
        failed = Notification.objects.filter(id=self.id, state=self.State.FAILED, settled_at=None)
        return bool(failed.update(settled_at=clock()))

    @classmethod
    def dead_letters(cls) -> "models.QuerySet[Notification]":
        """Return what could not be delivered and was neither sent again nor dropped since; the newest first."""
        return cls.objects.filter(state=cls.State.FAILED, settled_at=None).order_by("-finished_at")

    @classmethod
    def is_any_due(cls, channels: Iterable[str]) -> bool:
        return cls.objects.filter(
            state=cls.State.PENDING, channel__in=list(channels), due_at__lte=Now()
        ).exists()

    @classmethod
    def count_overdue(cls, seconds: float) -> int:
        """Count what nobody has taken for so many seconds since it was due."""
        return cls.objects.filter(
            state=cls.State.PENDING, due_at__lt=Now() - timedelta(seconds=seconds)
        ).count()

    @classmethod
    def prune_digests(cls, days: float) -> None:
        """Forget digests as their executions are: what they sum up goes with those."""
        old = cls.objects.filter(event=cls.Event.DIGEST, finished_at__lt=Now() - timedelta(days=days))
        ids = list(old.order_by("finished_at").values_list("id", flat=True)[:PRUNED_AT_ONCE])
        if ids:
            cls.objects.filter(id__in=ids).delete()


class Delivery(models.Model):
    """One try to send a notification."""

    class Outcome(models.TextChoices):
        SENT = "sent", _("sent")
        PUT_OFF = "put_off", _("put off")
        REFUSED = "refused", _("refused")
        UNKNOWN = "unknown", _("unknown")

    notification = models.ForeignKey(Notification, models.CASCADE, related_name="deliveries")
    attempt = models.PositiveIntegerField(_("attempt"))
    at = models.DateTimeField(_("when"))
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices)
    answer = models.CharField(_("answer"), max_length=MAX_ANSWER, blank=True)
    seconds = models.FloatField(_("seconds"))

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("at", "id")

    def __str__(self) -> str:
        return f"{self.attempt}: {self.outcome}"


def pause(attempt: int) -> float:
    """Return how many seconds to wait after a try: twice as long each time, and a little by chance."""
    longest = min(settings.MAIL_RETRY_SECONDS * 2.0 ** min(attempt - 1, 30), LONGEST_PAUSE)
    return longest * (1 + JITTER * random.random())  # noqa: S311


def ring() -> None:
    """Wake a worker once what was written is there for it."""
    transaction.on_commit(partial(bells.ring, QUEUE))
