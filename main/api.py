"""How the JSON side speaks: JSON in, JSON out, errors as `application/problem+json` with a sentence."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, cast

import orjson
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from rest_framework import authentication, exceptions, negotiation, parsers, renderers
from rest_framework.request import Request

from main.channel import with_redis

PROBLEM = "application/problem+json"
# How deep a body may be nested: what is done with it is recursive.
MAX_DEPTH = 100


def problem(status: int, detail: str, errors: Mapping[str, list[str]] | None = None) -> HttpResponse:
    """Return an error: RFC 9457's fields, sentences per field, and `error`, the sentence that clients show."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,
    }
    if errors:
        body["errors"] = errors
    return HttpResponse(orjson.dumps(body), status=status, content_type=PROBLEM)


def problem_response(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Say as a problem what a view raised; what is none of the API's errors goes on to Django."""
    if isinstance(error, Http404):
        return problem(404, str(error) or _("There is nothing here."))
    if isinstance(error, PermissionDenied):
        return problem(403, str(error) or _("You may not do that."))
    if not isinstance(error, exceptions.APIException):
        return None
    response = problem(error.status_code, _sentence(error), getattr(error, "errors", None))
    if isinstance(error, exceptions.MethodNotAllowed):
        response["Allow"] = ", ".join(context["view"].allowed_methods)
    if wait := getattr(error, "wait", None):
        response["Retry-After"] = str(math.ceil(wait))
    return response


def _sentence(error: exceptions.APIException) -> str:
    detail = error.detail
    return str(detail) if not isinstance(detail, list | dict) else _("The request is not valid.")


def wants_page(request: HttpRequest) -> bool:
    """Say whether HTML is asked for by name, as browsers do; `*/*` is what programs send."""
    return any(str(accepted) == "text/html" for accepted in request.accepted_types)


def safe_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Refuse all methods but GET and HEAD, in a sentence."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method in ("GET", "HEAD"):
            return view(request, *args, **kwargs)
        response = problem(405, _("This address is only read. Use GET."))
        response["Allow"] = "GET, HEAD"
        return response

    return checked


class Invalid(exceptions.APIException):
    """400 with a sentence, and more per field."""

    status_code = 400

    def __init__(self, detail: str, errors: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(detail)
        self.errors = errors


class Conflict(exceptions.APIException):
    status_code = 409


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's session, with the CSRF check for visitors as well: they own executions too."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        self.enforce_csrf(request)
        user = request._request.user
        return (user, None) if user.is_active else None

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except exceptions.PermissionDenied:
            raise exceptions.PermissionDenied(
                _(
                    "The CSRF token is missing or wrong. Send the value of the cookie “csrftoken” as X-CSRFToken."
                )
            ) from None


def _depth(value: Any) -> int:
    """Return how deep a JSON value is nested, level by level: it may be deeper than Python can recurse."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


class JSONObjectParser(parsers.BaseParser):
    """Reads a JSON object, whatever the content type says."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        try:
            body = orjson.loads(stream.read())
        except orjson.JSONDecodeError as error:
            raise Invalid(_("The body is not JSON: %(error)s.") % {"error": error}) from None
        if not isinstance(body, dict):
            raise Invalid(_("The body is not a JSON object."))
        if _depth(body) > MAX_DEPTH:
            raise Invalid(_("The body is nested more than %(most)d levels deep.") % {"most": MAX_DEPTH})
        return body


def body_of(request: Request, *fields: str) -> dict[str, Any]:
    """Return the object that a request sent; raises Invalid for a field that there is not: it may be misspelled."""
    body = cast(dict[str, Any], request.data)  # the parser sees to it
    known = ", ".join(f"“{field}”" for field in fields)
    if unknown := [name for name in body if name not in fields]:
        sentence = _("“%(name)s” is no field of this request; there are: %(known)s.")
        sentence %= {"name": unknown[0][:100], "known": known or "–"}
        raise Invalid(sentence, {unknown[0][:100]: [sentence]})
    return body


def boolean_of(body: dict[str, Any], field: str) -> bool:
    """Return a field of a request that is true or false; raises Invalid."""
    value = body.get(field)
    if not isinstance(value, bool):
        sentence = _("“%(name)s” is either true or false.") % {"name": field}
        raise Invalid(sentence, {field: [sentence]})
    return value


class JSONRenderer(renderers.BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        return orjson.dumps(data) if data is not None else b""


class AlwaysJSON(negotiation.BaseContentNegotiation):
    """Answers in JSON whatever is asked for: an error is the same for a browser."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class TooManyStarts(exceptions.APIException):
    """429 with Retry-After; `wait` is in seconds."""

    status_code = 429

    def __init__(self, wait: float) -> None:
        limit = settings.ANONYMOUS_STARTS_PER_MINUTE
        super().__init__(
            _("That is more than %(limit)d starts in a minute. Please wait a moment.") % {"limit": limit}
        )
        self.wait = wait


def count_start(request: Request) -> None:
    """Count a visitor's start by session and by address; raises TooManyStarts over the limit of the minute.

    Where Redis is away nobody is counted: a limit is no reason to refuse work.
    """
    if request.user.is_authenticated or not settings.ANONYMOUS_STARTS_PER_MINUTE:
        return
    minute, second = divmod(time.time(), 60)
    who = [f"address:{client_address(request)}"]
    if session := request.COOKIES.get(settings.SESSION_COOKIE_NAME):
        who.append(
            f"session:{hashlib.sha256(session.encode()).hexdigest()}"
        )  # whoever reads Redis is not that visitor
    counts: list[int] = with_redis(
        lambda redis: _count(redis, [f"starts:{each}:{int(minute)}" for each in who]), [0]
    )
    if max(counts) > settings.ANONYMOUS_STARTS_PER_MINUTE:
        raise TooManyStarts(60 - second)


def _count(redis: Any, keys: list[str]) -> list[int]:
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.incr(key)
        pipeline.expire(key, 120)
    return cast(list[int], pipeline.execute()[::2])


def client_address(request: Request | HttpRequest) -> str:
    """Return the address a request came from, behind as many proxies as the settings name."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if settings.PROXIES and len(forwarded) >= settings.PROXIES:
        return str(forwarded[-settings.PROXIES]).strip()
    return str(request.META.get("REMOTE_ADDR", ""))
