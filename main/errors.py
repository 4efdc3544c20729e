"""What went wrong, in a sentence for the person who reads it.

A flow that knows better than anyone what to say raises FlowError. Everything else that ends a flow goes
through `classify_error`, which recognises what model and search providers raise and never repeats their
texts: those can hold keys, addresses and prompts.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Why a step or an execution failed.

    `type` is one of bad_key, quota, timeout, unavailable, blocked, truncated, invalid_request, memory, error,
    or what a flow chose. `retry_after` is in seconds, None where the provider named no time.
    """

    type: str
    message: str
    retryable: bool
    retry_after: float | None = None


class FlowError(Exception):
    """Raised by a flow that has a sentence for its user.

    raise FlowError("No invoice has the number 4711.", type="not_found")
    """

    def __init__(
        self, message: str, type: str = "error", retryable: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.failure = Failure(type, message, retryable, retry_after)


UNKNOWN = Failure(
    "error",
    "The flow failed because of an error in its code. The server's log has the details.",
    retryable=False,
)


_NO_MEMORY = Failure("memory", "The flow needed more memory than there was for it.", retryable=False)


def classify_error(error: BaseException) -> Failure:
    """Return what to tell the user about an exception that ended a step or a flow."""
    for link in _chain(error):
        try:
            failure = _recognise(link)
        except Exception:  # noqa: BLE001 a foreign exception's properties may raise; a failure is told all the same
            failure = None
        if failure:
            return failure
    return UNKNOWN


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the members of a group, and what caused them; the outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting.extend(link.exceptions)
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if cause:
            waiting.append(cause)


def _recognise(error: BaseException) -> Failure | None:
    if isinstance(error, FlowError):
        return error.failure
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return _NO_MEMORY
    names = _names(error)
    provider = _provider(error)
    for known, failure in _BY_NAME:
        if not names.isdisjoint(known):
            return failure(error, provider)
    status = _status(error)
    return _by_status(error, status, provider) if status else None


# By name: nothing is imported for it, and an integration that is not installed costs nothing.


def _names(error: BaseException) -> set[str]:
    """Return "package.Class" for the exception's class and its bases."""
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _timeout(_: BaseException, provider: str) -> Failure:
    return Failure("timeout", f"{provider} did not answer in time. Try again in a moment.", retryable=True)


def _unavailable(error: BaseException, provider: str) -> Failure:
    return Failure(
        "unavailable",
        f"{provider} could not be reached or has trouble of its own. Try again in a moment.",
        retryable=True,
        retry_after=_retry_after(error),
    )


def _truncated(_: BaseException, provider: str) -> Failure:
    return Failure(
        "truncated",
        f"The connection to {_lower(provider)} broke in the middle of its answer. Try again.",
        retryable=True,
    )


def _protocol(error: BaseException, provider: str) -> Failure:
    # httpx raises the same class for a server that hangs up before it answers.
    broken_off = "without sending complete message body" in str(error) or "incomplete" in str(error)
    return _truncated(error, provider) if broken_off else _unavailable(error, provider)


def _bad_key(_: BaseException, provider: str) -> Failure:
    setting = _KEYS.get(provider, "the key")
    return Failure(
        "bad_key",
        f"{provider} refused the API key of this server. Whoever runs it has to check {setting}.",
        retryable=False,
    )


def _quota(error: BaseException, provider: str) -> Failure:
    if _is_lasting_limit(error):
        return Failure(
            "quota",
            f"The quota of this server's account with {_lower(provider)} is used up. "
            "Try again tomorrow, or ask whoever runs this server.",
            retryable=False,
            retry_after=_retry_after(error),
        )
    return Failure(
        "quota",
        f"{provider} takes no more requests from this server just now. Try again in a minute.",
        retryable=True,
        retry_after=_retry_after(error),
    )


def _tavily_forbidden(error: BaseException, provider: str) -> Failure:
    # Tavily's client raises the same class for 403 and for 432 and 433, the limits of a plan.
    return _quota(error, provider) if "limit" in str(error).lower() else _bad_key(error, provider)


def _invalid(_: BaseException, provider: str) -> Failure:
    return Failure("invalid_request", f"{provider} could not work with this request.", retryable=False)


def _too_long(_: BaseException, provider: str) -> Failure:
    return Failure(
        "invalid_request",
        f"The text is too long for {_lower(provider)}. Shorten the input, or choose a model that takes more.",
        retryable=False,
    )


def _unknown_model(_: BaseException, provider: str) -> Failure:
    return Failure(
        "invalid_request",
        f"{provider} does not know the model it was asked for. CHAT_MODEL has to name another.",
        retryable=False,
    )


def _unreadable(_: BaseException, provider: str) -> Failure:
    return Failure(
        "error", f"{provider} answered in a form that the flow could not read. Try again.", retryable=True
    )


def _database_away(_: BaseException, _provider: str) -> Failure:
    message = "The database could not be reached. Try again in a moment."
    return Failure("unavailable", message, retryable=True)


# The order matters: a class comes before the bases it shares with others.
_BY_NAME: tuple[tuple[set[str], Callable[[BaseException, str], Failure]], ...] = (
    ({"psycopg.OperationalError", "django.OperationalError", "django.InterfaceError"}, _database_away),
    ({"langchain_core.ContextOverflowError"}, _too_long),
    ({"langchain_core.OutputParserException"}, _unreadable),
    ({"httpx.TimeoutException", "httpx2.TimeoutException", "requests.Timeout"}, _timeout),
    ({"builtins.TimeoutError", "tavily.TimeoutError", "langchain_core.ModelTimeoutError"}, _timeout),
    ({"httpx.RemoteProtocolError", "httpx2.RemoteProtocolError"}, _protocol),
    ({"httpx.ReadError", "httpx2.ReadError", "requests.ChunkedEncodingError"}, _truncated),
    ({"http.IncompleteRead", "google.UnknownApiResponseError"}, _truncated),
    ({"httpx.TransportError", "httpx2.TransportError", "requests.ConnectionError"}, _unavailable),
    ({"builtins.ConnectionError", "socket.gaierror", "langchain_core.ModelConnectionError"}, _unavailable),
    ({"tavily.InvalidAPIKeyError", "tavily.MissingAPIKeyError"}, _bad_key),
    ({"tavily.ForbiddenError"}, _tavily_forbidden),
    ({"tavily.UsageLimitExceededError"}, _quota),
    ({"tavily.BadRequestError"}, _invalid),
)


# By HTTP status: what is left of Google's, OpenAI's, Anthropic's, httpx's and requests' errors.


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an exception stands for."""
    response = getattr(error, "response", None)
    candidates = [getattr(error, "status_code", None), getattr(response, "status_code", None)]
    if hasattr(error, "details") or hasattr(
        error, "headers"
    ):  # Google's and urllib's; no other code is a status
        candidates.append(getattr(error, "code", None))
    return next((each for each in candidates if isinstance(each, int) and 400 <= each < 600), None)


def _by_status(error: BaseException, status: int, provider: str) -> Failure:
    said = _said(error)
    if status in (401, 403) or _has(said, "api_key_invalid", "api key not", "api key expired"):
        return _bad_key(error, provider)
    if status in (429, 432, 433):
        return _quota(error, provider)
    if status in (408, 504):
        return _timeout(error, provider)
    if status >= 500:
        return _unavailable(error, provider)
    if _speaks_of_length(said, status):
        return _too_long(error, provider)
    if _has(said, "content_filter", "safety"):
        return blocked(provider)
    return _unknown_model(error, provider) if status == 404 and "model" in said else _invalid(error, provider)


def blocked(provider: str) -> Failure:
    """Return the failure for an answer that a provider's rules forbid."""
    return Failure(
        "blocked",
        f"{provider} would not answer: its safety rules blocked the request or the answer. Put it otherwise.",
        retryable=False,
    )


def _speaks_of_length(said: str, status: int) -> bool:
    return status == 413 or _has(
        said, "token limit", "maximum number of tokens", "context length", "context_length", "too long"
    )


def _has(said: str, *phrases: str) -> bool:
    return any(phrase in said for phrase in phrases)


def _said(error: BaseException) -> str:
    """Return what the provider said, in lower case, to look into; it is never shown."""
    response = getattr(error, "response", None)
    try:
        body = getattr(response, "text", "")
    except Exception:  # noqa: BLE001 httpx raises for a stream that was not read; any trouble means no text
        body = ""
    return f"{error} {body if isinstance(body, str) else ''}".lower()


def _is_lasting_limit(error: BaseException) -> bool:
    """Say whether a quota lasts for hours: a daily limit, or the end of what was paid for."""
    phrases = ("perday", "per day", "plan's set usage limit", "pay-as-you-go", "insufficient_quota")
    return _status(error) in (432, 433) or _has(_said(error), *phrases)


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds that the provider asked to wait: Google's RetryInfo, or the header Retry-After."""
    return _retry_info(getattr(error, "details", None)) or _retry_header(getattr(error, "response", None))


def _retry_info(body: Any) -> float | None:
    details = (body.get("error") or body).get("details") if isinstance(body, dict) else None
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and str(detail.get("@type")).endswith("google.rpc.RetryInfo"):
            return _seconds(str(detail.get("retryDelay", "")).removesuffix("s"))
    return None


def _retry_header(response: Any) -> float | None:
    header = getattr(response, "headers", {}).get("retry-after")
    if not header:
        return None
    if (seconds := _seconds(header)) is not None:
        return seconds
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _seconds(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None


# Who it was: the modules an exception came through, for httpx and requests serve them all.

_PROVIDERS = {
    "google.genai": "Gemini",
    "langchain_google_genai": "Gemini",
    "tavily": "Tavily",
    "langchain_openai": "OpenAI",
    "openai": "OpenAI",
    "langchain_anthropic": "Anthropic",
    "anthropic": "Anthropic",
}
_KEYS = {
    "Gemini": "GEMINI_API_KEY",
    "Tavily": "TAVILY_API_KEY",
    "OpenAI": "OPENAI_API_KEY",
    "Anthropic": "ANTHROPIC_API_KEY",
}
_ANY = "The service that this flow asked"


def _provider(error: BaseException) -> str:
    modules = [type(error).__module__]
    frame = error.__traceback__
    while frame:
        modules.append(str(frame.tb_frame.f_globals.get("__name__", "")))
        frame = frame.tb_next
    for module in modules:
        for package, provider in _PROVIDERS.items():
            if module == package or module.startswith(f"{package}."):
                return provider
    return _ANY


def _lower(provider: str) -> str:
    return "the service that this flow asked" if provider == _ANY else provider
