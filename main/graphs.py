"""Runs a LangGraph graph on a thread of its own: its checkpoints say how far it is.

Loaded when a flow runs a graph: LangGraph is large.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from langgraph.errors import EmptyInputError, GraphRecursionError
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel._loop import SyncPregelLoop

from main.errors import FlowError
from main.run import Stopped, another_input, unreadable

# Supersteps of a graph that says nothing about it. What LangGraph and create_agent set is no limit: 10,007, 9,999.
RECURSION_LIMIT = 50
UNLIMITED = 9_999
# Nodes at once. What a finished node wrote is kept in one of these threads, too, behind nodes that wait for one.
MAX_CONCURRENCY = 128
# Where a checkpoint's metadata has the fingerprint of the graph's input.
INPUT = "input_fingerprint"
# What LangGraph calls the write that leads a failed node to its error handler.
ERROR_SOURCE_NODE = "__error_source_node__"

Writes = Sequence[tuple[str, Any]]

# With durability "sync", LangGraph 1.2 waits after each superstep for its checkpoint, also in a subgraph that was
# compiled with checkpointer=False and has none: there is nothing to wait for.
_nothing: Future[None] = Future()
_nothing.set_result(None)
SyncPregelLoop._put_checkpoint_fut = _nothing


class Thread:
    """A graph with its checkpoints."""

    def __init__(
        self, graph: Any, saver: BaseCheckpointSaver[Any], *, thread_id: str, fingerprint: str
    ) -> None:
        self._graph = _compiled(graph, saver)
        self._saver = saver
        self._fingerprint = fingerprint
        self._limit = _recursion_limit(self._graph)
        self._configurable = {"thread_id": thread_id, "checkpoint_ns": ""}

    def advanced(self, given: Any, tracer: BaseCallbackHandler, name: str) -> Any:
        """Run the graph from where it is to its end, and return its state there."""
        begun = self._saver.get_tuple({"configurable": self._configurable})
        if begun and cast(dict[str, Any], begun.metadata).get(INPUT) != self._fingerprint:
            raise another_input(name)
        return self._run(None if begun else given, callbacks=[tracer], run_name=name)

    def final_state(self) -> Any:
        """Return the state of a graph that has come to its end: LangGraph finds nothing more to do."""
        try:
            return self._run(None)
        except EmptyInputError:
            raise unreadable(self._graph.name) from None

    def _run(self, given: Any, **config: Any) -> Any:
        # Not as a subgraph of what happens to be around it: it has a thread of its own.
        with set_config_context(RunnableConfig()) as context:
            return context.run(self._streamed, given, self._config(**config))

    def _config(self, **config: Any) -> RunnableConfig:
        limits = {"recursion_limit": self._limit, "max_concurrency": MAX_CONCURRENCY}
        own = {key: value for key, value in (self._graph.config or {}).items() if key == "max_concurrency"}
        metadata = {INPUT: self._fingerprint}
        return cast(
            RunnableConfig, limits | own | config | {"configurable": self._configurable, "metadata": metadata}
        )

    def _streamed(self, given: Any, config: RunnableConfig) -> Any:
        """Return what `invoke` would; raises FlowError where that would leave the graph in the middle."""
        state, asks = None, False
        parts = self._graph.stream(
            given,
            config,
            stream_mode=["updates", "values"],
            output_keys=self._graph.output_channels,
            durability="sync",
        )
        try:
            for mode, part in parts:
                state = part if mode == "values" else state
                asks = asks or (mode == "updates" and INTERRUPT in part)
        except GraphRecursionError as error:
            raise self._endless() from error
        if asks:
            raise FlowError(
                "The graph stopped to ask a person, and there is nobody to answer it yet. "
                "Let it decide by itself: without interrupt(), interrupt_before and interrupt_after.",
                type="flow",
            )
        return state

    def _endless(self) -> FlowError:
        return FlowError(
            f"The graph came to no end within {self._limit} supersteps. Let it end earlier, or give it more: "
            f"graph.with_config(recursion_limit={2 * self._limit}).",
            type="flow",
        )


def outcome(writes: Writes) -> tuple[Writes, bool]:
    """Return what is to be kept of what a task wrote, and whether the task failed.

    LangGraph takes a task for finished that wrote anything before it failed, as a node does whose conditional
    edge raises. Its graph would end there, without a word: then the error alone is kept.
    """
    if any(isinstance(value, Stopped) for _, value in writes):
        return [], True
    channels = {channel for channel, _ in writes}
    if ERROR in channels and ERROR_SOURCE_NODE not in channels:
        return [write for write in writes if write[0] == ERROR], True
    return writes, not channels.isdisjoint((ERROR, INTERRUPT))


def _compiled(graph: Any, saver: BaseCheckpointSaver[Any]) -> Pregel[Any, Any, Any, Any]:
    if isinstance(graph, StateGraph):
        return graph.compile(checkpointer=saver)
    if not isinstance(graph, Pregel):
        raise FlowError(
            f"run.graph takes a StateGraph, or one that is compiled, and was given a {type(graph).__name__}.",
            type="flow",
        )
    compiled = copy.copy(graph)
    compiled.checkpointer = saver
    return compiled


def _recursion_limit(graph: Pregel[Any, Any, Any, Any]) -> int:
    limit = (graph.config or {}).get("recursion_limit", UNLIMITED)
    return RECURSION_LIMIT if limit >= UNLIMITED else limit
