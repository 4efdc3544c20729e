"""Tells a run what LangChain does inside a step: named parts become log lines, tools tool results, tokens the answer.

One handler, passed in the config of the step, sees everything below it, in any thread.
"""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable

from main import values
from main.run import Run

Item = TypeVar("Item")

# LangGraph's tag for what is not to be shown.
HIDDEN = "langsmith:hidden"


class Tracer(BaseCallbackHandler):
    """Reports to a run. Raises through LangChain when the run was stopped, so that no further call is made."""

    # A callback in another thread could not end the call that it belongs to.
    run_inline = True
    raise_error = True

    def __init__(self, run: Run, step_name: str) -> None:
        self.run = run
        self._step_name = step_name
        # The nearest name that a person gave, for every LangChain run that is under way.
        self._names: dict[UUID, str] = {}
        self._tools: dict[UUID, str] = {}
        # Model calls that have not said anything yet.
        self._silent: set[UUID] = set()
        # What writes into one step writes in turns; a step has a text of its own.
        self._texts: dict[str, _Turns] = {}
        # What leaves a node of a graph again, for every one that is under way.
        self._leave: dict[UUID, Callable[[], None]] = {}

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
        if self._is_node(kwargs):
            self._begin_node(run_id, kwargs["metadata"])
        else:
            self._begin(run_id, parent_run_id, kwargs.get("name") or "")

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._names.pop(run_id, None)
        if leave := self._leave.pop(run_id, None):
            leave()

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.on_chain_end(None, run_id=run_id)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        self.run.confirm()
        name = kwargs.get("name") or ""
        self._begin(run_id, parent_run_id, name)
        model = (kwargs.get("metadata") or {}).get("ls_model_name") or name or "the model"
        self.run.note_model(model)
        self.run.status(f"Waiting for {model} …")
        self._silent.add(run_id)

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self.on_chat_model_start(serialized, [], run_id=run_id, **kwargs)

    def on_llm_new_token(
        self,
        token: Any,
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self.run.check()
        text = str(chunk.message.text if isinstance(chunk, ChatGenerationChunk) else token)
        if text and run_id in self._silent:
            self._silent.discard(run_id)
            self.run.status("Writing …")
        self._text.add(run_id, text)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self._end_text(run_id)
        self.run.check()
        for generations in response.generations:
            for generation in generations:
                usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
                self.run.count_usage(
                    {name: amount for name, amount in usage.items() if isinstance(amount, int)}
                )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end_text(run_id)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        name = kwargs.get("name") or ""
        tool = (serialized or {}).get("name") or name or "tool"
        self._tools[run_id] = tool
        self._begin(run_id, parent_run_id, name if name != tool else "")
        self.run.status(f"Using {tool} …")

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.run.tool_result(self._tools.pop(run_id, "tool"), _shown(output), self._names.pop(run_id, ""))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._names.pop(run_id, None)
        self.run.log(f"✗ {self._tools.pop(run_id, 'tool')} failed.")

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        self.run.check()
        name = kwargs.get("name") or "retriever"
        self._tools[run_id] = name
        self._begin(run_id, parent_run_id, name)
        self.run.status(f"Using {name} …")

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.on_tool_end(documents, run_id=run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.on_tool_error(error, run_id=run_id)

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, name: str) -> None:
        """Note under which name a LangChain run belongs, and log one that a person gave."""
        is_the_step = parent_run_id is None and name == self._step_name  # which is announced already
        if _is_given_name(name) and not is_the_step:
            self._names[run_id] = name
            self.run.log(f"▶ {name}")
        else:
            self._names[run_id] = self._names.get(parent_run_id, "") if parent_run_id else ""

    def _is_node(self, started: dict[str, Any]) -> bool:
        """Say whether a node of a graph begins. LangGraph's own nodes are hidden: no person made them."""
        namespace: str = (started.get("metadata") or {}).get("langgraph_checkpoint_ns") or ""
        return bool(namespace) and HIDDEN not in (started.get("tags") or ()) and self.run.is_node(namespace)

    def _begin_node(self, run_id: UUID, metadata: dict[str, Any]) -> None:
        self._leave[run_id] = self.run.begin_node(
            metadata["langgraph_node"],
            _number(metadata),
            metadata["langgraph_checkpoint_ns"],
            metadata["langgraph_step"],
        )
        self._names[run_id] = ""  # its tools are its own
        self._texts.pop(self.run.here, None)  # begun again

    @property
    def _text(self) -> "_Turns":
        here = self.run.here
        return self._texts.get(here) or self._texts.setdefault(here, _Turns(self.run))

    def _end_text(self, run_id: UUID) -> None:
        self._names.pop(run_id, None)
        self._silent.discard(run_id)
        self._text.end(run_id)


class _Turns:
    """Lets models that write at the same time write one after the other, with an empty line between them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._writer: UUID | None = None
        self._waiting: dict[UUID, list[str]] = {}
        self._ended: set[UUID] = set()
        self._is_begun = False

    def add(self, call: UUID, text: str) -> None:
        if not text:
            return
        with self._lock:
            if self._writer is None:
                self._give_turn(call)
            if self._writer == call:
                self._run.token(text)
            else:
                self._waiting.setdefault(call, []).append(text)

    def end(self, call: UUID) -> None:
        with self._lock:
            self._ended.add(call)
            while self._waiting and (self._writer is None or self._writer in self._ended):
                following = next(iter(self._waiting))
                self._give_turn(following)
                self._run.token("".join(self._waiting.pop(following)))
            if self._writer in self._ended:
                self._writer = None

    def _give_turn(self, call: UUID) -> None:
        if self._is_begun:
            self._run.token("\n\n")
        self._writer, self._is_begun = call, True


def _number(metadata: dict[str, Any]) -> str:
    """Return what tells a run of a graph's node from the others, the same in every attempt.

    That is the superstep; of several tasks in one of them, which it is; and of several calls of a subgraph by one
    node, which call.
    """
    path = metadata["langgraph_path"]
    call = metadata["langgraph_checkpoint_ns"].split("|")[-2:][0]
    number = str(metadata["langgraph_step"])
    number += f".{path[-2] + 1}" if isinstance(path[-2], int) else ""
    return number + (f"~{call}" if call.isdigit() else "")


def _shown(output: Any) -> Any:
    """Return a tool's output as JSON: what was meant as JSON is shown as such."""
    if isinstance(output, ToolMessage):
        artifact = _plain(output.artifact)
        return _shown(output.content) if artifact is None else artifact
    if isinstance(output, str) and output[:1] in ("[", "{"):
        try:
            return json.loads(output)
        except ValueError:
            return output
    shown = _plain(output)
    return f"({type(output).__name__})" if shown is None and output is not None else shown


def _plain(output: Any) -> Any:
    """Return plain JSON, or None for what has no such form: it can be used, and not be shown."""
    if isinstance(output, list):
        output = [_shown_document(each) if isinstance(each, Document) else each for each in output]
    try:
        return values.plain(output)
    except values.ResultError:
        return None


def _shown_document(document: Document) -> dict[str, Any]:
    address = document.metadata.get("source") or document.metadata.get("url")
    return (
        {"url": address, "content": document.page_content} if address else {"content": document.page_content}
    )


def _is_given_name(name: str) -> bool:
    """Say whether a person gave the name (`run_name`), or it is LangChain's own: a class name."""
    own = name.partition("<")[0]
    return bool(own) and not own.startswith(("_", "Runnable")) and not _is_class_name(own)


_class_names = {"lambda", "LangGraph"}


def _is_class_name(name: str) -> bool:
    if name not in _class_names:  # or not yet: providers are imported when they are needed
        _class_names.update(cls.__name__ for cls in _subclasses(Runnable))
    return name in _class_names


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)
