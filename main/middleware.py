"""A database that is away is a clean answer, not a trace."""

import sys
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from main import sse
from main.api import problem
from main.database import DATABASE_AWAY
from main.doors import PATHS

RETRY_AFTER = 5


class DatabaseAwayMiddleware:
    """Answers 503 with Retry-After where a view does not reach PostgreSQL; see `is_database_away` for the rest."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return database_away(request) if isinstance(error, DATABASE_AWAY) else None


def is_database_away() -> bool:
    """Say whether that is the error being handled: outside of views, as where a session is saved, Django asks nobody
    before its handler of errors."""
    return isinstance(sys.exc_info()[1], DATABASE_AWAY)


def database_away(request: HttpRequest) -> HttpResponse:
    """To a browser's EventSource a 503 is final, so a stream is answered with 200, `retry:`, and its end."""
    if PATHS.fullmatch(request.path_info):
        return retry_stream(RETRY_AFTER)
    response = problem(503, "The database is away for the moment. Please try again in some seconds.")
    response["Retry-After"] = str(RETRY_AFTER)
    return response


def retry_stream(seconds: float) -> HttpResponse:
    """Return a stream that ends at once and asks the client to come back."""
    return HttpResponse(sse.retry(seconds), headers=sse.HEADERS)
