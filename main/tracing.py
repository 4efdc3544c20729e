"""Tells a run what LangChain does inside a step: named parts become log lines, tools tool results, tokens the answer.

One handler, passed in the config of the step, sees everything below it, in any thread.
"""

import json
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable

from main.run import Run

Item = TypeVar("Item")


class Tracer(BaseCallbackHandler):
    """Reports to a run. Raises through LangChain when the run was stopped, so that no further call is made."""

    # A callback in another thread could not end the call that it belongs to.
    run_inline = True
    raise_error = True

    def __init__(self, run: Run) -> None:
        self.run = run
        # The nearest name that a person gave, for every LangChain run that is under way.
        self._names: dict[UUID, str] = {}
        # Model calls that have not said anything yet.
        self._silent: set[UUID] = set()

    # A handler with these two makes models stream under a plain `.invoke()`; the items pass as they are.

    def tap_output_iter(self, run_id: UUID, output: Iterator[Item]) -> Iterator[Item]:
        return output

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Item]) -> AsyncIterator[Item]:
        return output

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        self.run.check()
        name = kwargs.get("name") or ""
        # The outermost chain is the step itself, which is announced already.
        if parent_run_id is not None and _is_given_name(name):
            self._names[run_id] = name
            self.run.log(f"▶ {name}")
        else:
            self._names[run_id] = self._names.get(parent_run_id, "") if parent_run_id else ""

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._names.pop(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._names.pop(run_id, None)

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        self.run.check()
        name = kwargs.get("name") or ""
        if _is_given_name(name):
            self.run.log(f"▶ {name}")
        model = (kwargs.get("metadata") or {}).get("ls_model_name") or name or "the model"
        self.run.status(f"Waiting for {model} …")
        self._silent.add(kwargs["run_id"])

    def on_llm_new_token(
        self, token: Any, *, chunk: GenerationChunk | ChatGenerationChunk | None = None, **kwargs: Any
    ) -> None:
        text = chunk.message.text if isinstance(chunk, ChatGenerationChunk) else token
        if text and kwargs.get("run_id") in self._silent:
            self._silent.discard(kwargs["run_id"])
            self.run.status("Writing …")
        self.run.token(str(text))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self._silent.discard(run_id)
        self.run.check()
        for generations in response.generations:
            for generation in generations:
                usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
                self.run.count_usage(
                    {name: amount for name, amount in usage.items() if isinstance(amount, int)}
                )

    def on_tool_start(
        self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._names[run_id] = kwargs.get("name") or (serialized or {}).get("name") or "tool"
        self.run.status(f"Using {self._names[run_id]} …")

    def on_tool_end(
        self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        tool = self._names.pop(run_id, "tool")
        self.run.tool_result(
            tool, _shown(output), self._names.get(parent_run_id, "") if parent_run_id else ""
        )

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.run.log(f"✗ {self._names.pop(run_id, 'tool')} failed.")

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.run.tool_result(kwargs.get("name") or "retriever", [_shown_document(each) for each in documents])


def _shown(output: Any) -> Any:
    """Return a tool's output as JSON: what was meant as JSON is shown as such."""
    if isinstance(output, ToolMessage):
        output = output.artifact if output.artifact is not None else output.content
    if isinstance(output, str) and output[:1] in ("[", "{"):
        try:
            return json.loads(output)
        except ValueError:
            return output
    if isinstance(output, list):
        return [_shown_document(each) if isinstance(each, Document) else each for each in output]
    return output


def _shown_document(document: Document) -> dict[str, Any]:
    address = document.metadata.get("source") or document.metadata.get("url")
    return (
        {"url": address, "content": document.page_content} if address else {"content": document.page_content}
    )


def _is_given_name(name: str) -> bool:
    """Say whether a person gave the name (`run_name`), or it is LangChain's own: a class name."""
    own = name.partition("<")[0]
    return bool(own) and own not in _class_names() and not own.startswith(("_", "Runnable"))


@cache
def _class_names() -> frozenset[str]:
    names: set[str] = {"lambda", "LangGraph"}
    classes: list[type] = [Runnable]
    while classes:
        cls = classes.pop()
        names.add(cls.__name__)
        classes.extend(cls.__subclasses__())
    return frozenset(names)
