"""Google's Gemini as a chat model. This imports the provider: import it only where a model is made."""

from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_google_genai import ChatGoogleGenerativeAI

from main.errors import FlowError, blocked

# Reasons with which Gemini ends an answer that its rules forbid.
BLOCKING = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}
    | {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"}
)


class ChatGemini(ChatGoogleGenerativeAI):
    """ChatGoogleGenerativeAI that does not take half an answer for a whole one.

    Google's client ends quietly when the stream does, also when the server went away in the middle or blocked
    the answer. Both raise FlowError here.
    """

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _whole(super()._generate(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reasons = set[str]()
        for chunk in super()._stream(messages, stop, run_manager, **kwargs):
            reasons |= _reasons(chunk)
            yield chunk
        _check(reasons)

    # Google's async client keeps connections of the event loop it was first used in, and fails in the next
    # one: a model that is shared lets LangChain run the two above in threads.
    _agenerate = BaseChatModel._agenerate
    _astream = BaseChatModel._astream


def _whole(result: ChatResult) -> ChatResult:
    reasons = set[str]().union(*(_reasons(generation) for generation in result.generations))
    _check(reasons | _block_reasons(result.llm_output))
    return result


def _reasons(generation: ChatGeneration) -> set[str]:
    """Return why this answer ended, or why its prompt was refused; nothing for a part in the middle."""
    finish = (generation.generation_info or {}).get("finish_reason")
    return ({finish} if finish else set()) | _block_reasons(generation.message.response_metadata)


def _block_reasons(metadata: dict[str, Any] | None) -> set[str]:
    feedback = (metadata or {}).get("prompt_feedback") or {}
    return {"SAFETY"} if feedback.get("block_reason") else set()


def _check(reasons: set[str]) -> None:
    """Raise for an answer that was blocked, or that has no end."""
    if reasons & BLOCKING:
        failure = blocked("Gemini")
        raise FlowError(failure.message, failure.type)
    if not reasons:
        raise FlowError("Gemini's answer broke off before its end. Try again.", "truncated", retryable=True)
