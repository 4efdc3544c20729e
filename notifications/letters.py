"""What people read: subject, text and HTML of a notification, in their language."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, override

from main.models import Execution
from notifications.models import Notification
from notifications.sentences import translated
from notifications.unsubscribe import unsubscribe_address

# Characters of a result in a mail, of a subject, and how many executions a digest names.
MAX_RESULT = 4000
MAX_SUBJECT = 150
MAX_NAMED = 20
# Characters of a flow's title in a subject: its outcome stands behind it.
MAX_TITLE = 100
# Characters that turn the direction of text around.
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
LINK = re.compile(r"\[([^\[\]\n]*|\[[^\]\n]*\])\]\(<?([^)>\s]*)>?\)")


class Letter(NamedTuple):
    """What is sent, whichever way. `unsubscribe` is the address that ends all of them."""

    subject: str
    text: str
    html: str
    unsubscribe: str


def letter(notification: Notification) -> Letter:
    """Write a notification down for its receiver."""
    with override(notification.user.language or settings.LANGUAGE_CODE):
        if notification.execution is None:
            subject, context = _digest(notification)
        else:
            subject, context = _ended(notification.execution)
        context |= {
            "subject": subject,
            "reason": REASONS[notification.reason](),
            "settings": settings.PUBLIC_URL + "/notifications/",
            "unsubscribe": unsubscribe_address(notification.user_id),
        }
        name = f"notifications/{notification.event}"
        text = render_to_string(f"{name}.txt", context)
        return Letter(subject, text, render_to_string(f"{name}.html", context), context["unsubscribe"])


REASONS = {
    "asked": lambda: _("You get this mail because you asked to be told when it ends."),
    "failed": lambda: _("You get this mail because you want to be told when one of your executions fails."),
    "long": lambda: _("You get this mail because it took long and you were not watching when it ended."),
    "many": lambda: _("You get this mail instead of one for each, because many ended at once."),
}


# One execution


def _ended(execution: Execution) -> tuple[str, dict[str, Any]]:
    title = one_line(execution.title)
    outcome = _outcome(execution)
    return f"{title[:MAX_TITLE]}: {outcome}", {
        "title": title,
        "outcome": outcome,
        "state": execution.state,
        "duration": duration(execution.duration),
        "error": _sentence(execution),
        "advice": _advice(execution),
        **_result(execution),
        "url": settings.PUBLIC_URL + execution.get_absolute_url(),
    }


def _outcome(execution: Execution) -> str:
    outcomes = {
        Execution.State.SUCCESS: _("finished"),
        Execution.State.FAILURE: _("failed"),
        Execution.State.CANCELLED: _("cancelled"),
    }
    return outcomes[Execution.State(execution.state)]


def _sentence(execution: Execution) -> str:
    error: Any = execution.error
    return translated(error["message"]) if error and error["message"] else ""


def _advice(execution: Execution) -> str:
    """Return what to do about a failure."""
    error: Any = execution.error
    if not error or execution.state != Execution.State.FAILURE:
        return ""
    if error["retryable"]:
        return _("Trying again may help: open it and choose “Run again”.")
    advice = {
        "timeout": _("Give it less to do at once, or have its time limit raised."),
        "memory": _("Give it less to do at once, or have more memory allowed for it."),
        "poison": _("Whoever runs this server finds in the workers’ log what ended them."),
        "unknown_flow": _("The flow is gone from the server. Start one that is there."),
    }
    default = _("Open it to see how far it came. From there you can change its inputs, or run it again.")
    return advice.get(error["type"], default)


def _result(execution: Execution) -> dict[str, Any]:
    if execution.state != Execution.State.SUCCESS or execution.result is None:
        return {"result": "", "is_cut": False}
    result: Any = execution.result
    if isinstance(result, str):
        text, is_cut = readable(clean(result[: 2 * MAX_RESULT])).strip(), len(result) > 2 * MAX_RESULT
    else:
        text, is_cut = clean(json.dumps(result, ensure_ascii=False, indent=2)), False
    return {"result": text[:MAX_RESULT].rstrip(), "is_cut": is_cut or len(text) > MAX_RESULT}


# Many executions


def _digest(notification: Notification) -> tuple[str, dict[str, Any]]:
    members = notification.members.order_by("created_at").select_related("execution")
    executions = [
        member.execution
        for member in members.defer("execution__result", "execution__inputs")
        if member.execution is not None
    ]
    failed = sum(execution.state == Execution.State.FAILURE for execution in executions)
    count = len(executions)
    subject = ngettext("%(count)s execution ended", "%(count)s executions ended", count)
    subject %= {"count": number_format(count, force_grouping=True)}
    if failed:
        words = ngettext("%(count)s failed", "%(count)s failed", failed)
        subject += ", " + words % {"count": number_format(failed, force_grouping=True)}
    return subject, {
        "rows": [_row(execution) for execution in _worst_first(executions)[:MAX_NAMED]],
        "more": max(0, count - MAX_NAMED),
        "url": settings.PUBLIC_URL + "/",
    }


def _worst_first(executions: Sequence[Execution]) -> list[Execution]:
    return sorted(executions, key=lambda execution: execution.state != Execution.State.FAILURE)


def _row(execution: Execution) -> dict[str, Any]:
    return {
        "title": one_line(execution.title),
        "outcome": _outcome(execution),
        "state": execution.state,
        "duration": duration(execution.duration),
        "error": one_line(_sentence(execution))[:MAX_SUBJECT],
        "url": settings.PUBLIC_URL + execution.get_absolute_url(),
    }


# Words


def duration(seconds: float | None) -> str:
    """Return a time as people say it, to about a hundredth of itself; "" for what never began."""
    if seconds is None:
        return ""
    if seconds < 10:
        return _("%(seconds)s s") % {"seconds": number_format(seconds, 1)}
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": rest}
    return _("%(seconds)s s") % {"seconds": rest}


def clean(text: str) -> str:
    """Return text without what a mail program may take for something else: all control characters but line ends."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cs"))


def readable(markdown: str) -> str:
    """Return Markdown as plain text that reads well: without marks of headings and emphasis, links by their words.

    What is code stays as it is, and so do addresses that lead somewhere from a mail.
    """
    parts = re.split(r"^```.*\n?", markdown, flags=re.MULTILINE)  # every second one is code
    return "".join(part if index % 2 else _prose(part) for index, part in enumerate(parts))


def _prose(text: str) -> str:
    text = re.sub(r"^#{1,6} +", "", text, flags=re.MULTILINE)
    text = re.sub(r"^([ \t]*)[-*+] +", r"\1• ", text, flags=re.MULTILINE)
    text = LINK.sub(lambda link: f"{link[1]} ({link[2]})" if "://" in link[2] else link[1], text)
    return re.sub(r"(?<![\w*])(\*{1,2})(?=[^\s*])([^*\n]+)(?<=\S)\1(?![\w*])", r"\2", text)


def one_line(text: str) -> str:
    """Return text that can be nothing but a line of words in a mail's head.

    It cannot begin another line, cannot be read as an encoded word, which may hold line ends itself, and cannot turn
    around the direction in which what follows is read.
    """
    visible = "".join(" " if _is_break(each) else each for each in text if each not in TURNS)
    return " ".join(visible.replace("=?", "= ?").split())[:MAX_SUBJECT]


def _is_break(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
