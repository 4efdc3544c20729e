"""classify_error: whatever is raised, a person reads a sentence and no secret."""

import errno
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import requests
import tavily.errors
from django.db import InterfaceError, OperationalError
from google.genai.errors import APIError, ClientError, ServerError
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelConnectionError,
    ModelTimeoutError,
    OutputParserException,
)
from psycopg_pool import PoolTimeout

from main.errors import UNKNOWN, Failure, FlowError, classify_error

REQUEST = httpx.Request("POST", "https://example.org/?key=SECRET")


def status_error(status: int, headers: dict[str, str] | None = None, text: str = "") -> httpx.HTTPStatusError:
    response = httpx.Response(status, headers=headers, text=text, request=REQUEST)
    return httpx.HTTPStatusError("SECRET", request=REQUEST, response=response)


def google_error(code: int, **error: Any) -> APIError:
    kind = ClientError if code < 500 else ServerError
    return kind(code, {"error": {"code": code, "message": "SECRET", **error}}, None)


@pytest.mark.parametrize(
    ("error", "expected", "retryable"),
    [
        (httpx.ReadTimeout("SECRET"), "timeout", True),
        (httpx.ConnectTimeout("SECRET"), "timeout", True),
        (httpx.PoolTimeout("SECRET"), "timeout", True),
        (requests.ReadTimeout("SECRET"), "timeout", True),
        (requests.ConnectTimeout("SECRET"), "timeout", True),
        (TimeoutError("SECRET"), "timeout", True),
        (tavily.errors.TimeoutError(3), "timeout", True),
        (ModelTimeoutError("SECRET"), "timeout", True),
        (google_error(504), "timeout", True),
        (httpx.ConnectError("SECRET"), "unavailable", True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), "unavailable", True),
        (requests.ConnectionError("SECRET"), "unavailable", True),
        (ConnectionRefusedError("SECRET"), "unavailable", True),
        (ModelConnectionError("SECRET"), "unavailable", True),
        (google_error(500), "unavailable", True),
        (google_error(503), "unavailable", True),
        (status_error(529), "unavailable", True),
        (PoolTimeout("SECRET"), "unavailable", True),
        (OperationalError("SECRET"), "unavailable", True),
        (InterfaceError("SECRET"), "unavailable", True),
        (
            httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
            "truncated",
            True,
        ),
        (httpx.ReadError("SECRET"), "truncated", True),
        (requests.exceptions.ChunkedEncodingError("SECRET"), "truncated", True),
        (google_error(400, details=[{"reason": "API_KEY_INVALID"}]), "bad_key", False),
        (google_error(401), "bad_key", False),
        (google_error(403), "bad_key", False),
        (status_error(401), "bad_key", False),
        (tavily.errors.InvalidAPIKeyError("SECRET"), "bad_key", False),
        (tavily.errors.MissingAPIKeyError(), "bad_key", False),
        (tavily.errors.ForbiddenError("SECRET"), "bad_key", False),
        (tavily.errors.ForbiddenError("This request exceeds your plan's set usage limit."), "quota", False),
        (tavily.errors.UsageLimitExceededError("SECRET"), "quota", True),
        (google_error(429), "quota", True),
        (google_error(429, details=[{"violations": [{"quotaId": "RequestsPerDay"}]}]), "quota", False),
        (status_error(429, text='{"error": {"code": "insufficient_quota"}}'), "quota", False),
        (google_error(400), "invalid_request", False),
        (google_error(404), "invalid_request", False),
        (status_error(413), "invalid_request", False),
        (status_error(422), "invalid_request", False),
        (tavily.errors.BadRequestError("SECRET"), "invalid_request", False),
        (ContextOverflowError("SECRET"), "invalid_request", False),
        (status_error(400, text="The maximum context length is 8 tokens."), "invalid_request", False),
        (status_error(400, text='{"error": {"code": "content_filter"}}'), "blocked", False),
        (OutputParserException("SECRET"), "error", True),
        (ValueError("SECRET"), "error", False),
        (KeyError("SECRET"), "error", False),
        (SystemExit(429), "error", False),
        (KeyboardInterrupt(), "error", False),
    ],
)  # fmt: skip
def test_every_error_becomes_a_sentence(error: BaseException, expected: str, retryable: bool) -> None:
    failure = classify_error(error)
    assert (failure.type, failure.retryable) == (expected, retryable)
    assert "SECRET" not in failure.message
    assert failure.message.endswith(".")
    assert failure.message[0].isupper()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "SECRET"), RuntimeError("no table")])
def test_a_want_of_memory_is_told_whatever_it_is_wrapped_in(error: BaseException) -> None:
    cause = MemoryError() if isinstance(error, RuntimeError) else None
    failure = classify_error(raised(error, cause))
    assert (failure.type, failure.retryable) == ("memory", False)
    assert "SECRET" not in failure.message


def test_a_flow_speaks_for_itself() -> None:
    error = FlowError("No invoice has the number 4711.", "not_found", retryable=True, retry_after=3)
    assert classify_error(error) == Failure("not_found", "No invoice has the number 4711.", True, 3)
    assert str(error) == "No invoice has the number 4711."


def test_a_flow_that_wraps_an_error_is_heard_before_it() -> None:
    error = raised(FlowError("The report is late."), httpx.ReadTimeout(""))
    assert classify_error(error).message == "The report is late."


def test_the_cause_is_found_behind_wrappers() -> None:
    error = raised(RuntimeError("outer"), raised(ValueError("inner"), google_error(429)))
    assert classify_error(error).type == "quota"


def during_a_timeout(error: Exception, *, hidden: bool) -> BaseException:
    """Raise an error while a timeout is handled: Python notes the one in the other."""
    try:
        try:
            raise httpx.ReadTimeout("")
        except httpx.ReadTimeout:
            if hidden:
                raise error from None
            raise error  # noqa: B904 that nothing is said is the point
    except Exception as caught:  # noqa: BLE001
        return caught


def test_what_went_before_is_found_where_nothing_was_said() -> None:
    assert classify_error(during_a_timeout(RuntimeError(), hidden=False)).type == "timeout"


def test_what_was_hidden_on_purpose_stays_hidden() -> None:
    assert classify_error(during_a_timeout(RuntimeError(), hidden=True)) == UNKNOWN


def test_a_group_is_told_by_its_first_known_member() -> None:
    assert classify_error(ExceptionGroup("", [ValueError(), httpx.ReadTimeout("")])).type == "timeout"


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify_error(first) == UNKNOWN


def test_an_exception_that_cannot_be_looked_at_is_told_all_the_same() -> None:
    class Awkward(Exception):
        @property
        def response(self) -> None:
            raise RuntimeError

    assert classify_error(Awkward()) == UNKNOWN


def test_the_requested_wait_comes_from_google_or_from_the_header() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}
    assert classify_error(google_error(429, details=[info])).retry_after == 37.5
    assert classify_error(google_error(503, details=[info])).retry_after == 37.5
    assert classify_error(status_error(429, {"Retry-After": "7"})).retry_after == 7
    assert classify_error(status_error(429, {"Retry-After": "-1"})).retry_after == 0
    assert classify_error(status_error(429, {"Retry-After": "soon"})).retry_after is None
    assert classify_error(status_error(429)).retry_after is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    waited = classify_error(status_error(503, {"Retry-After": later})).retry_after
    assert waited is not None
    assert 55 < waited <= 60


def test_nothing_is_imported_to_recognise_an_error() -> None:
    code = (
        "import sys; from main.errors import classify_error; classify_error(ValueError('x'));"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('django', 'google', 'langchain_core', 'httpx', 'requests', 'tavily', 'pydantic')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
