"""Executions in the admin: what their list and the page of one look like, whichever of them are shown.

Every page costs a fixed number of queries and has a bounded size, however many executions there are and however
much one of them has to show. To look takes the permission to view executions, to act the one to change them.
Nothing can be edited.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple, get_args
from urllib.parse import urlsplit

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import Case, F, JSONField, Q, QuerySet, TextField, When
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Length
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.text import smart_split, unescape_string_literal
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from main.again import REFUSALS
from main.models import Execution, Step
from main.registry import FLOW_REGISTRY, Kind
from main.run import step_name

# Where a list stops to count, and how many rows an action takes at once.
MAX_COUNT = 10_000
MAX_AT_ONCE = 1_000
# Characters of an input or a result that are shown; the rest is a link away.
MAX_TEXT_LENGTH = 32 * 1024
MAX_STEPS = 200
ENTRIES_PER_PAGE = 200
# Characters of a tool result's JSON in the timeline; a larger one is only linked.
MAX_DATA_LENGTH = 16 * 1024
# What can be opened whole.
WHOLE_FIELDS = ("inputs", "result")

# A sentence with %(count)s in it, in the number that a count takes.
Counted = Callable[[int], str]

EMPTY = "–"
MARKS = {"PENDING": "…", "RUNNING": "▶", "SUCCESS": "✓", "FAILURE": "✗", "CANCELLED": "■"}


class ExecutionList(ChangeList):
    """The list, which leaves in the database what it does not show."""

    heavy_fields: ClassVar[tuple[str, ...]] = ("inputs", "result", "error", "usage")

    def get_queryset(self, *args: Any, **options: Any) -> QuerySet[Execution]:
        found: QuerySet[Execution] = super().get_queryset(*args, **options)
        return found.defer(*self.heavy_fields)

    def get_results(self, *args: Any) -> None:
        super().get_results(*args)
        if not self.query or self.result_count == self.paginator.limit:
            self.full_result_count = self.result_count  # nothing to say beside the search box


def moment(field: str, label: Any) -> Callable[[Any], str]:
    """Return a column that shows a time to the second: many executions take no longer."""

    @admin.display(description=label, ordering=field)
    def show(row: Any) -> str:
        value = getattr(row, field)
        return f"{localtime(value):%Y-%m-%d %H:%M:%S}" if value else EMPTY

    show.__name__ = field
    return show


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # not subscriptable at run time
    """Counts no further than its limit: PostgreSQL would read every row, on each visit."""

    limit = MAX_COUNT

    @cached_property
    def count(self) -> int:
        found: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return found.order_by().values("pk")[: self.limit].count()


class FlowFilter(admin.SimpleListFilter):
    """The flows in the code, not a DISTINCT over all rows. One that left the code is found by searching for it."""

    title = gettext_lazy("flow")
    parameter_name = "flow"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        titles = {flow.name: flow.title for flow in FLOW_REGISTRY.values()}
        if name := self.value():
            titles.setdefault(name, name)
        return sorted(titles.items(), key=lambda each: each[1])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(flow=self.value()) if self.value() else queryset


class KindFilter(admin.SimpleListFilter):
    title = gettext_lazy("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, kind) for kind in get_args(Kind)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ActingAdmin(ReadOnlyAdmin):
    """A list with actions, which are also buttons on the page of one."""

    # The buttons of the page of one: where they lead below it, and the action that they do.
    buttons: ClassVar[dict[str, str]] = {}

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Say whether this user may act. `has_change_permission` would open the fields."""
        return False

    def get_urls(self) -> list[URLPattern]:
        return [*(self._button(route, act) for route, act in self.buttons.items()), *super().get_urls()]

    def _button(self, route: str, act: str) -> URLPattern:
        view = self.admin_site.admin_view(partial(self.act_view, act=getattr(self, act)))
        return path(f"<uuid:row_id>/{route}/", view, name=self._name(route.replace("-", "_")))

    def _name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def act_view(
        self,
        request: HttpRequest,
        row_id: uuid.UUID,
        act: Callable[[HttpRequest, QuerySet[Any]], None],
    ) -> HttpResponse:
        """Do an action for the one row that the page shows; back to it."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        chosen = self.get_queryset(request).filter(id=row_id)
        if not chosen.exists():
            raise Http404
        if request.method == "POST":  # who had to sign in first comes back with a GET
            act(request, chosen)
        return redirect(f"admin:{self._name('change')}", row_id)

    def do_to_each(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        do: Callable[[Any], bool],
        *,
        note: str,
        done: Counted,
        not_done: Counted,
    ) -> None:
        """Do something to each of them, note it in its history, and say to how many it was done and to how many not.

        `do` says whether it did it.
        """
        chosen = self.chosen(request, queryset)
        changed = 0
        for row in chosen:
            if do(row):
                self.log_change(request, row, note)
                changed += 1
        if changed:
            self.message_user(request, done(changed) % {"count": changed}, messages.SUCCESS)
        if unchanged := len(chosen) - changed:
            self.message_user(request, not_done(unchanged) % {"count": unchanged}, messages.WARNING)

    def chosen(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Read what an action was asked for, the oldest first; the rest of too many is left for another time."""
        chosen = list(self.whole(queryset).order_by("created_at")[: MAX_AT_ONCE + 1])
        if len(chosen) > MAX_AT_ONCE:
            text = _("Only the %(count)d oldest of them were taken: more are too many at once.")
            self.message_user(request, text % {"count": MAX_AT_ONCE}, messages.WARNING)
        return chosen[:MAX_AT_ONCE]

    def whole(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return rows with all that an action needs of them, which the list may leave out."""
        return queryset


CREATED = moment("created_at", gettext_lazy("created"))
STARTED = moment("started_at", gettext_lazy("started"))
FINISHED = moment("finished_at", gettext_lazy("finished"))
LEASE_UNTIL = moment("lease_until", gettext_lazy("lease until"))
DEADLINE = moment("deadline", gettext_lazy("deadline"))


class ExecutionPages(ActingAdmin):
    """The list of executions, the page of one, and how an action on some of them is done."""

    list_select_related = ("owner",)
    paginator = BoundedPaginator
    # Makes the search box appear; `get_search_results` says where it looks.
    search_fields = ("id",)
    search_help_text = gettext_lazy(
        "An id or its beginning, a flow, an owner’s e-mail address, or words of the inputs."
    )
    view_on_site = False  # the page has a link of its own
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("flow_and_name", "state_label", "failure", "started_by")}),
        (gettext_lazy("Times"), {"fields": ((CREATED, STARTED, FINISHED, "lasted"),)}),
        (
            gettext_lazy("How it ran"),
            {
                "fields": (
                    ("kind", "priority", "attempts", "crashes", "time_limit"),
                    "run_again_from",
                    ("held_by", LEASE_UNTIL, DEADLINE),
                    ("model_name", "used"),
                )
            },
        ),
    )

    # Who may

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("main.view_execution") or self.has_operate_permission(request)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("main.change_execution")

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ExecutionList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        return Execution.objects.select_related("owner")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        queryset = queryset.alias(inputs_text=Cast("inputs", TextField()))
        for word in smart_split(search_term):
            queryset = queryset.filter(_matches(_unquoted(word)))
        return queryset, False

    @admin.display(description=gettext_lazy("flow"), ordering="flow")
    def title(self, execution: Execution) -> str:
        return format_html("{} <code>{}</code>", execution.title, str(execution.id)[:8])

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_and_worker(self, execution: Execution) -> str:
        held_by = execution.worker if execution.state == Execution.State.RUNNING else ""
        return format_html('{} <span class="worker">{}</span>', self.state_label(execution), held_by)

    @admin.display(description=gettext_lazy("state"))
    def state_label(self, execution: Execution) -> str:
        return format_html(
            '<span class="state state-{}"><span aria-hidden="true">{}</span> {}</span>',
            execution.state.lower(),
            MARKS[execution.state],
            execution.get_state_display(),
        )

    @admin.display(description=gettext_lazy("owner"), ordering="owner__email")
    def started_by(self, execution: Execution) -> str:
        if execution.owner:
            return execution.owner.email
        return _("visitor") if execution.visitor else EMPTY

    @admin.display(description=gettext_lazy("duration"), ordering=F("finished_at") - F("started_at"))
    def lasted(self, execution: Execution) -> str:
        if execution.duration is not None:
            return duration_text(execution.duration)
        if execution.started_at is None or execution.is_final:
            return EMPTY
        so_far = (timezone.now() - execution.started_at).total_seconds()
        return _("%(duration)s so far") % {"duration": duration_text(so_far)}

    @admin.display(description=gettext_lazy("attempts"), ordering="attempt")
    def attempts(self, execution: Execution) -> int:
        return execution.attempt

    # The page of one execution

    @admin.display(description=gettext_lazy("flow"))
    def flow_and_name(self, execution: Execution) -> str:
        return format_html("{} <code>{}</code>", execution.title, execution.flow)

    @admin.display(description=gettext_lazy("error"))
    def failure(self, execution: Execution) -> str:
        error: Any = execution.error
        if not error:
            return EMPTY
        again = _("Trying again may help.") if error["retryable"] else ""
        return format_html("{} <code>{}</code> {}", error["message"], error["type"], again)

    @admin.display(description=gettext_lazy("run again from"))
    def run_again_from(self, execution: Execution) -> str:
        if execution.origin_id is None:
            return EMPTY
        address = reverse("admin:main_execution_change", args=[execution.origin_id])
        return format_html('<a href="{}">{}</a>', address, execution.origin_id)

    @admin.display(description=gettext_lazy("worker"))
    def held_by(self, execution: Execution) -> str:
        return execution.worker or EMPTY

    @admin.display(description=gettext_lazy("chat model"))
    def model_name(self, execution: Execution) -> str:
        return execution.chat_model or EMPTY

    @admin.display(description=gettext_lazy("usage"))
    def used(self, execution: Execution) -> str:
        amounts = [
            f"{name} {number_format(amount, force_grouping=True)}" for name, amount in execution.usage.items()
        ]
        return ", ".join(sorted(amounts)) or EMPTY

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        execution: Execution = context["original"]
        page = _page_of_entries(execution, request.GET.get("page"))
        context |= {
            "can_operate": self.has_operate_permission(request),
            "values": [_shown(execution, field) for field in WHOLE_FIELDS],
            "page": page,
            "entries": [_entry_row(entry) for entry in page],
            "steps": [StepRow.of(step) for step in _steps(execution)],
            "max_steps": MAX_STEPS,
        }
        return super().render_change_form(request, context, *args, **kwargs)

    # Act

    def start_again(
        self,
        request: HttpRequest,
        queryset: QuerySet[Execution],
        start: Callable[[Execution], Execution],
    ) -> None:
        """Start each of them again, and say what was started and what was not."""
        started: list[Execution] = []
        refused: Counter[str] = Counter()
        for execution in self.chosen(request, queryset):
            try:
                started.append(start(execution))
            except REFUSALS as error:
                refused[_not_started_message(execution, error)] += 1
            else:
                self.log_change(request, execution, _("Run again as %(id)s.") % {"id": started[-1].id})
        if started:
            self.message_user(request, _started_message(started), messages.SUCCESS)
        for sentence, count in refused.items():
            self.message_user(request, sentence + (f" ({count} ×)" if count > 1 else ""), messages.ERROR)

    def whole(self, queryset: QuerySet[Execution]) -> QuerySet[Execution]:
        return queryset.defer(None).defer("result", "usage")


def _not_started_message(execution: Execution, error: Exception) -> str:
    return _("“%(title)s” was not run again. %(reason)s") % {"title": execution.title, "reason": error}


def _started_message(started: list[Execution]) -> str:
    if len(started) > 1:
        return _("%(count)d executions were started.") % {"count": len(started)}
    address = reverse("admin:main_execution_change", args=[started[0].id])
    return format_html('{} <a href="{}">{}</a>', _("An execution was started:"), address, started[0])


# What is searched for


def _unquoted(word: str) -> str:
    is_quoted = len(word) > 1 and word[0] in "\"'" and word[0] == word[-1]
    return unescape_string_literal(word) if is_quoted else word


def _matches(word: str) -> Q:
    ids = _ids_beginning_with(word)
    if ids and ids[0] == ids[1]:
        return Q(id=ids[0])
    flows = [flow.name for flow in FLOW_REGISTRY.values() if word.lower() in flow.title.lower()]
    as_json = json.dumps(word, ensure_ascii=False)[1:-1]
    found = (
        Q(flow__icontains=word)
        | Q(flow__in=flows)
        | Q(owner__email__icontains=word)
        | Q(inputs_text__icontains=as_json)
    )
    return found | Q(id__range=ids) if ids else found


def _ids_beginning_with(word: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """Return the first and the last id that begin so, or None. A range uses the index, a LIKE would not."""
    digits = word.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        return None
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


# What is shown


class Shown(NamedTuple):
    """A value, cut to what a page can bear. `size` is what it is when it was cut."""

    title: str
    text: str
    size: str
    url: str


class Link(NamedTuple):
    url: str
    title: str
    content: str


class StepRow(NamedTuple):
    name: str
    duration: str
    tries: int
    attempt: int

    @classmethod
    def of(cls, step: Step) -> "StepRow":
        return cls(step_path(step.key), duration_text(step.duration), step.tries, step.attempt)


def written(value: Any) -> str:
    """Return text as it is and anything else as JSON for people to read."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def duration_text(seconds: float) -> str:
    """Return seconds as "1.5 s", "2 min 5 s" or "1 h 2 min"."""
    if seconds < 59.95:
        return _("%(seconds)s s") % {"seconds": number_format(round(seconds, 1), 1)}
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": rest}
    return _("%(hours)d h %(minutes)d min") % {"hours": minutes // 60, "minutes": minutes % 60}


def step_path(key: str) -> str:
    """Return the names of a step and those it lies in."""
    return " › ".join(step_name(part) for part in key.split("/"))


def _shown(execution: Execution, field: str) -> Shown:
    value = getattr(execution, field)
    text = written(value) if value is not None and value != {} else ""
    return Shown(
        title=str(Execution._meta.get_field(field).verbose_name),  # type: ignore[union-attr]
        text=text[:MAX_TEXT_LENGTH],
        size=filesizeformat(len(text.encode())) if len(text) > MAX_TEXT_LENGTH else "",
        url=reverse("admin:main_execution_whole", args=[execution.id, field]),
    )


def _steps(execution: Execution) -> QuerySet[Step]:
    return execution.steps.defer("result", "fingerprint")[: MAX_STEPS + 1]


def _page_of_entries(execution: Execution, number: str | None) -> Page[Any]:
    """Read a page of the timeline, without tool results that are too large for it."""
    entries = execution.entries.defer("data").annotate(
        message=KT("data__message"),
        tool=KT("data__tool"),
        step_name=KT("data__step_name"),
        size=Length(Cast("data", TextField())),
        value=Case(When(size__lte=MAX_DATA_LENGTH, then=F("data__data")), output_field=JSONField()),
    )
    return Paginator(entries, ENTRIES_PER_PAGE).get_page(number)


def _entry_row(entry: Any) -> dict[str, Any]:
    return {
        "at": entry.created_at,
        "attempt": entry.attempt,
        "step": step_path(entry.step),
        "message": entry.message,
        "tool": entry.tool,
        "step_name": entry.step_name,
        "links": links(entry.value),
        "json": written(entry.value) if entry.value is not None else "",
        "size": filesizeformat(entry.size),
        "url": entry.address,
    }


def links(value: Any) -> list[Link]:
    """Return what can be followed in a tool result that is a list of `{"url", "title"?, "content"?}`."""
    items = value if isinstance(value, list) else []
    return [
        Link(item["url"], str(item.get("title") or item["url"]), str(item.get("content") or ""))
        for item in items
        if isinstance(item, dict) and is_web_address(item.get("url"))
    ]


def is_web_address(url: Any) -> bool:
    """Say whether a link may go there: http, https, or a page of this server."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme:
        return parts.scheme in ("http", "https") and bool(parts.netloc)
    return bool(re.match(r"/(?![/\\])", url))
