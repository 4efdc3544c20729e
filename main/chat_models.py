"""Chat models by name: `chat_model("provider:model")`.

A flow says `llm: ChatModel` and is given the default model. Providers are imported when a model is made: a
web process, which only lists flows, never loads one.
"""

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from main.errors import FlowError
from main.registry import ChatModel as ChatModel  # flows find it here, beside chat_model()

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

DEFAULT_GEMINI = "gemini-3.8-flash"
DEMO_MODEL = "Demo model"
# Seconds that Google may work on one answer. Its client would send our timeout, which counts silence, as the
# time for the whole answer, and Google refuses less than 10.
GEMINI_DEADLINE = 600


class ModelDescription(NamedTuple):
    """What pages say about the default chat model."""

    name: str
    demo: bool
    note: str


def chat_model(spec: str = "") -> "BaseChatModel":
    """Return the chat model for "provider:model"; for "" the default one.

    chat_model("google_genai:gemini-3.8-flash"), chat_model("demo:")

    The same spec returns the same object, which threads may share. Raises FlowError for a provider that is
    not known or has no key.
    """
    provider, model = _resolve(spec)
    with _making:  # two threads that need the same model at once make one
        return PROVIDERS[provider](model)


def describe_chat_model() -> ModelDescription:
    """Describe the default chat model without loading it."""
    from django.utils.translation import gettext as _

    try:
        provider, model = _resolve("")
    except FlowError as error:
        return ModelDescription(_default_spec(), demo=False, note=str(error))
    if provider == "demo":
        note = _(
            "No model is set up, so the built-in demo model answers: it composes verse from a small stock of "
            "lines and picks sentences from texts. Set GEMINI_API_KEY for a real one."
        )
        return ModelDescription(DEMO_MODEL, demo=True, note=note)
    return ModelDescription(model, demo=False, note=_("Answers come from %(model)s.") % {"model": model})


def label(model: str) -> str:
    """Return what people see a model called by its name: the demo model says what it is."""
    return DEMO_MODEL if model == _DEFAULT_MODELS["demo"] else model


def _resolve(spec: str) -> tuple[str, str]:
    """Return provider and model; raise FlowError with what to set."""
    from django.conf import settings

    provider, _, model = (spec or _default_spec()).partition(":")
    if provider not in PROVIDERS:
        known = ", ".join(f"“{name}:”" for name in PROVIDERS)
        raise FlowError(
            f"The chat model “{spec or _default_spec()}” has no known provider. A model is named "
            f"provider:model; the providers are {known}. Whoever runs this server has to check CHAT_MODEL.",
            "invalid_request",
        )
    if provider == "google_genai" and not settings.GEMINI_API_KEY:
        raise FlowError(
            "The chat model is Google's, and this server has no key for it. "
            "Whoever runs it has to set GEMINI_API_KEY.",
            "bad_key",
        )
    return provider, model or _DEFAULT_MODELS[provider]


def _default_spec() -> str:
    from django.conf import settings

    return str(settings.CHAT_MODEL or ("google_genai:" if settings.GEMINI_API_KEY else "demo:"))


def _google_genai(model: str) -> "BaseChatModel":
    from django.conf import settings

    return _make_gemini(
        model, settings.GEMINI_API_KEY, settings.GOOGLE_GEMINI_BASE_URL or None, settings.PROVIDER_TIMEOUT
    )


def _demo(model: str) -> "BaseChatModel":
    from django.conf import settings

    return _make_demo(model, settings.DEMO_TOKEN_DELAY)


# Making a model costs up to 0.15 s. The arguments hold every setting it depends on.


@lru_cache(maxsize=32)
def _make_gemini(model: str, key: str, base_url: str | None, timeout: float) -> "BaseChatModel":
    from pydantic import SecretStr

    from main.gemini import ChatGemini

    return ChatGemini(
        model=model,
        api_key=SecretStr(key),
        client_options=base_url,
        request_timeout=timeout,
        retries=1,  # one attempt; the engine retries, and Google's client would add half a minute unseen
        vertexai=False,
        additional_headers={"X-Server-Timeout": str(GEMINI_DEADLINE)},
    )


@lru_cache(maxsize=32)
def _make_demo(model: str, token_delay: float) -> "BaseChatModel":
    from main.demo_model import DemoChatModel

    return DemoChatModel(model_name=model, token_delay=token_delay)


PROVIDERS: dict[str, Callable[[str], "BaseChatModel"]] = {"google_genai": _google_genai, "demo": _demo}
_DEFAULT_MODELS = {"google_genai": DEFAULT_GEMINI, "demo": "demo"}
_making = Lock()
