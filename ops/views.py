"""The API of who operates the platform: queues and dead letters. Open to staff."""

import logging
import uuid
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from main.again import FAILED_STEP, REFUSALS, requested_way
from main.api import Conflict, Invalid, body_of
from ops import dead_letters, queues

logger = logging.getLogger(__name__)


class IsStaff(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        if not (request.user.is_authenticated and request.user.is_staff):
            raise PermissionDenied(_("Only staff may see and do this. Sign in as such."))
        return True


class StaffView(APIView):
    permission_classes = (IsStaff,)


# Queues


class Queues(StaffView):
    """`GET /api/v1/ops/queues`: what waits and runs, and who works on it."""

    def get(self, request: Request) -> Response:
        return Response({"queues": queues.queue_states(), "kinds": queues.kind_states()})


class Purge(StaffView):
    """`POST /api/v1/ops/queues/<name>/purge`: cancel all that waits in a queue."""

    def post(self, request: Request, name: str) -> Response:
        queue = queues.QUEUES.get(name)
        if queue is None:
            sentence = _("There is no queue “%(name)s”; there are %(known)s.")
            raise NotFound(sentence % {"name": name, "known": ", ".join(queues.QUEUES)})
        return Response({"cancelled": queues.purge(queue, by=request.user.pk)})


# Dead letters


class DeadLetters(StaffView):
    """`GET /api/v1/ops/dead-letters`: what failed or expired and is not settled, the newest first, in pages."""

    def get(self, request: Request) -> Response:
        asked = request.query_params.dict()
        length, cursor = _length(asked.pop("limit", "")), asked.pop("cursor", "")
        after = dead_letters.Cursor.parse(cursor) if cursor else None
        page = dead_letters.read_page(dead_letters.matching(asked), length, after)
        return Response({"dead_letters": page.rows, "next": _next(request, page.next)})


class Requeue(StaffView):
    """`POST /api/v1/ops/dead-letters/<id>/requeue` with `{"from": "failed_step" | "start"}`: run or send it again."""

    def post(self, request: Request, letter_id: str) -> Response:
        way = requested_way(body_of(request, "from"), default=FAILED_STEP)
        source, row = _found(letter_id)
        try:
            again = source.requeue(row, way)
        except REFUSALS as error:
            raise Conflict(str(error)) from None
        return Response(again or {"id": str(row.id)})


class Drop(StaffView):
    """`POST /api/v1/ops/dead-letters/<id>/drop`: take it off the list."""

    def post(self, request: Request, letter_id: str) -> Response:
        body_of(request)
        source, row = _found(letter_id)
        source.drop(row)
        _note(request, "dropped", 1)
        return Response({"id": str(row.id)})


class RequeueMany(StaffView):
    """`POST /api/v1/ops/dead-letters/requeue` with `{"ids"}` or `{"filter"}`, and `{"from"}`."""

    def post(self, request: Request) -> Response:
        body = body_of(request, "ids", "filter", "from")
        way = requested_way(body, default=FAILED_STEP)
        return _all(request, body, "requeued", lambda ids: dead_letters.requeue_all(ids, way))


class DropMany(StaffView):
    """`POST /api/v1/ops/dead-letters/drop` with `{"ids"}` or `{"filter"}`."""

    def post(self, request: Request) -> Response:
        return _all(request, body_of(request, "ids", "filter"), "dropped", dead_letters.drop_all)


def _all(
    request: Request, body: dict[str, Any], done: str, do: Callable[[list[uuid.UUID]], dead_letters.Done]
) -> Response:
    chosen = dead_letters.chosen(body)
    outcome = do(chosen.ids)
    _note(request, done, len(outcome.done))
    return Response({done: outcome.done, "refused": outcome.refused, "more": chosen.more})


def _note(request: Request, done: str, count: int) -> None:
    logger.info("user %s %s %d dead letters", request.user.pk, done, count)


def _found(letter_id: str) -> tuple[dead_letters.Source, Any]:
    try:
        return dead_letters.find(uuid.UUID(letter_id))
    except ValueError:
        raise NotFound(_("There is no such dead letter.")) from None


def _length(text: str) -> int:
    most = dead_letters.MAX_PAGE_LENGTH
    if not text:
        return dead_letters.PAGE_LENGTH
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        sentence = _("“limit” is a number from 1 to %(most)d.") % {"most": most}
        raise Invalid(sentence, {"limit": [sentence]})
    return int(text)


def _next(request: Request, cursor: dead_letters.Cursor | None) -> str | None:
    """Return the address of the next page: the same question, further on."""
    if cursor is None:
        return None
    query = request.query_params.copy()
    query["cursor"] = str(cursor)
    return f"{request.path}?{query.urlencode()}"
