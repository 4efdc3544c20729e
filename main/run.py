"""The handle a flow is given while it executes.

`Run` knows neither Django nor Celery nor Redis: it is given a journal, which keeps what finished steps
returned, and a channel, which carries what happens to watchers. A flow says what it does by calling it from any
thread; what LangChain does inside a step is reported by itself (see tracing.py).
"""

import hashlib
import logging
import math
import random
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload
from urllib.parse import quote, unquote

from main import values
from main.errors import Failure, FlowError, classify_error
from main.events import MAX_NAME_LENGTH, MAX_STATUS_LENGTH, Entry, Event, without_large_data

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from main.graphs import Thread

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_MESSAGE_LENGTH = 4000
# A key is in every event of its step and in an index of PostgreSQL, which takes 2,700 bytes.
MAX_KEY_BYTES = 500
# What receivers take as an idempotency key: Stripe names 255 characters, and in a header they have to be ASCII.
MAX_EFFECT_KEY_LENGTH = 255
# Seconds before the second try of a step, at most; doubled for each further one, up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
# Seconds that a provider may ask to wait: nobody watches an execution that rests for longer.
LONGEST_WAIT = 600.0
# Seconds that a graph's checkpoint waits for the nodes before it to be written down; they take milliseconds.
NODE_PATIENCE = 60.0
# What the journal has for the fingerprint of a graph's node: LangGraph compares no inputs.
NODE = "node"

_NOTHING: Any = object()


class Stopped(BaseException):
    """Ends a run from outside. No Exception, so that no library's broad `except` swallows it."""


@dataclass(frozen=True)
class Recorded:
    """What the journal keeps of a finished step."""

    fingerprint: str
    result: Any
    position: int = 0
    """The highest of an entry until it was finished: what follows it stands after that."""


@dataclass
class StepRecord:
    """A finished step with its entries, for the journal. `result` is already JSON (see values.py)."""

    key: str
    name: str
    fingerprint: str
    result: Any
    started_at: datetime
    entries: list[tuple[int, Entry]]
    progress: int
    tries: int


class Journal(Protocol):
    def recall(self, key: str) -> Recorded | None:
        """Return what an earlier attempt kept of the step, or None."""

    def record(self, step: StepRecord) -> None:
        """Keep a finished step and its entries; raises Stopped where this attempt lost its execution."""

    def keep_entry(self, position: int, entry: Entry) -> None:
        """Keep one entry at once, because it is too large to be sent to watchers whole."""

    def is_open(self) -> bool:
        """Say whether this attempt still has its execution, as far as that can be known."""

    def nodes_in(self, key: str) -> Mapping[str, int]:
        """Return the finished nodes that earlier attempts kept of a graph, by key, with the position of each."""

    def checkpointer(self, run: "Run") -> "BaseCheckpointSaver[Any]":
        """Return where LangGraph keeps what a graph's nodes did, each in one transaction with `run.keeping_node`."""


class Channel(Protocol):
    def send(self, event: Event) -> None:
        """Tell the watchers. Never raises, never waits long: what is lost comes later as a snapshot."""


@dataclass(eq=False)
class _Step:
    """A step that is being done: where its entries and tokens belong."""

    key: str
    name: str
    entries: list[tuple[int, Entry]] = field(default_factory=list)
    children: dict[str, int] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    failed_tries: list[str] = field(default_factory=list)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    # The graph that this is or is in; where LangGraph is in it; a node was finished since the graph last failed.
    graph: "_Step | None" = None
    namespace: str = ""
    superstep: int = 0
    got_on: bool = False


_current: ContextVar[_Step | None] = ContextVar("current_step", default=None)


class Run:
    """One attempt at an execution, as the flow sees it. Every method may be called from any thread."""

    def __init__(
        self,
        execution_id: str,
        *,
        journal: Journal,
        channel: Channel,
        attempt: int = 1,
        expected_steps: int | Callable[[], int] = 0,
        step_retries: int = 3,
        effect_scope: str = "",
    ) -> None:
        """`effect_scope` is the execution that this one continues: its effects keep their keys."""
        self.id = execution_id
        self.attempt = attempt
        self.usage: dict[str, int] = {}
        self.models: list[str] = []
        self._journal = journal
        self._channel = channel
        self._expected_steps = expected_steps
        self._step_retries = step_retries
        self._effect_scope = effect_scope or execution_id
        self._begun_steps: set[str] = set()
        self._may_have_begun = False
        self._lock = threading.Lock()
        self._top = _Step(key="", name="")
        self._left: dict[str, list[tuple[int, Entry]]] = {}
        # Nodes of graphs that are begun and not written down, by LangGraph's id of their task.
        self._nodes: dict[str, _Step] = {}
        self._node_settled = threading.Condition(self._lock)
        # Why a node could not be written down, by LangGraph's thread.
        self._broken: dict[str, BaseException] = {}
        self._position = 0
        self._finished_steps: set[str] = set()
        self._progress = 0
        self._stop = threading.Event()
        self._stop_reason = ""
        self._stop_at_step = False

    # What a flow calls

    @overload
    def step(self, name: str, what: Callable[..., Result], input: Any = ...) -> Result: ...

    @overload
    def step(self, name: str, what: "Runnable[Any, Result]", input: Any = ...) -> Result: ...

    def step(self, name: str, what: Any, input: Any = _NOTHING) -> Any:
        """Do a named part of the flow once, and return its result.

        `what` is a callable or any LangChain Runnable; it is called with `input`, or with nothing. The result is
        kept: when the execution is taken up again after a crash, a finished step is not done again. A failure
        that is worth it (a full quota, a provider that is away) is tried again, up to the flow's `step_retries`.

        Raises what `what` raised; ResultError for a result that cannot be kept; FlowError where a step of the
        same name is running in parallel, or where the input differs from that of the earlier attempt.
        """
        with self._opened(name) as step:
            fingerprint = "" if input is _NOTHING else values.fingerprint(input)
            recorded = self._journal.recall(step.key)
            if recorded:
                return self._replayed(step, recorded, fingerprint)
            return self._performed(step, fingerprint, partial(_kept, self, step, what, input))

    def effect(self, name: str, call: Callable[[str], Result]) -> Result:
        """Do something to the world outside as a step, with a key by which its receiver knows it again.

            run.effect("Send the invoice", lambda key: client.post(url, headers={"Idempotency-Key": key}).json())

        A step is done at least once: a worker can die between the call and its record. The key is the same in
        every try and every attempt, and another one for every other effect, so that a receiver who honours it
        applies the effect once. It is ASCII, and at most 255 characters long. Raises what `step` raises.
        """
        with self._opened(name) as step:
            if recorded := self._journal.recall(step.key):
                return cast(Result, self._replayed(step, recorded, ""))
            key = _effect_key(self._effect_scope, step.key)
            return cast(Result, self._performed(step, "", partial(_kept, self, step, call, key)))

    def graph(self, graph: Any, input: Any, name: str = "Graph") -> Any:
        """Run a LangGraph graph as a step, and return its final state.

        `graph` is a StateGraph, or one that is compiled, as `create_agent` returns it. What its nodes write is
        kept in PostgreSQL as soon as each has finished: when the execution is taken up again after a crash, and
        when a node failed with what is worth a retry, only nodes that did not finish run again. Each run of a
        node is a step inside this one. A state holds what LangGraph can keep without pickle: JSON, messages,
        documents, and dataclasses, Pydantic models and enums from the top of a module.

        Raises what a node raised; ResultError for a state that cannot be kept; FlowError where the graph takes
        too many supersteps or asks a person (`interrupt`), where no one can answer; and what `step` raises.
        """
        with self._opened(name) as step:
            from main.graphs import Thread

            step.graph, step.namespace = step, ""
            fingerprint = values.fingerprint(input)
            saver = self._journal.checkpointer(self)
            thread = Thread(graph, saver, thread_id=self._thread_id(step), fingerprint=fingerprint)
            recorded = self._journal.recall(step.key)
            if recorded:
                self._accept(step, recorded, fingerprint)
                return thread.final_state()
            return self._performed(step, fingerprint, partial(self._advanced, step, thread, input))

    def status(self, text: str) -> None:
        """Say in one line what is going on now."""
        self.check()
        self._channel.send(
            {"type": "state", "state": "PROGRESS", "status": values.clean_text(text)[:MAX_STATUS_LENGTH]}
        )

    def progress(self, percent: float) -> None:
        """Say how far it is, 0 to 100. It never goes backwards; what finished steps say counts as well."""
        self.check()
        self._advance(int(percent))

    def log(self, message: str) -> None:
        """Add a line to the timeline."""
        self._add(
            {
                "type": "log",
                "step": "",
                "n": 0,
                "message": values.clean_text(str(message))[:MAX_MESSAGE_LENGTH],
            }
        )

    def tool_result(self, tool: str, data: Any, step_name: str = "") -> None:
        """Show what a tool returned. `data` is best a list of `{"url", "content"}`; any JSON will do.

        Raises ResultError for what has no JSON form.
        """
        self._add(
            {
                "type": "tool_result",
                "step": "",
                "n": 0,
                "step_name": _as_name(step_name or self._here().name or tool),
                "tool": _as_name(tool),
                "data": values.plain(data),
            }
        )

    def token(self, text: str) -> None:
        """Let the answer grow by a piece of text."""
        self.check()
        if text:
            self._channel.send({"type": "token", "step": self._here().key, "text": values.clean_text(text)})

    def count_usage(self, usage: dict[str, int]) -> None:
        """Add to what the execution used, such as {"input_tokens": 12, "output_tokens": 40}."""
        with self._lock:
            for name, amount in usage.items():
                self.usage[name] = self.usage.get(name, 0) + amount

    def note_model(self, name: str) -> None:
        """Note that a chat model of that name was asked."""
        with self._lock:
            if name not in self.models:
                self.models.append(name)

    # What the engine calls

    def go_on(self, progress: int, begun_steps: Iterable[str] | None) -> None:
        """Take up an earlier attempt's progress, and the steps that it began and did not finish.

        None where nobody knows which these are: then each may be one.
        """
        self._progress = progress
        self._begun_steps = set(begun_steps or ())
        self._may_have_begun = begun_steps is None

    def check(self) -> None:
        """Raise Stopped where the run was told to stop."""
        if self._stop.is_set():
            raise Stopped(self._stop_reason)

    def confirm(self) -> None:
        """Raise Stopped where the run was told to stop, or is soon to be: asked before what costs money."""
        self.check()
        if not self._journal.is_open():
            self.stop("The execution ended or was taken over.")
        self.check()

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a stop; raises Stopped."""
        self._stop.wait(seconds)
        self.check()

    def stop(self, reason: str) -> None:
        """End the run at its next call, from any thread."""
        self._stop_reason = self._stop_reason or reason
        self._stop.set()

    def stop_at_step(self, reason: str) -> None:
        """End the run where its next step would begin: what is under way is finished and kept."""
        self._stop_reason = self._stop_reason or reason
        self._stop_at_step = True

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def unfiled_entries(self) -> list[tuple[int, Entry]]:
        """Return the entries that no finished step took into the journal, by position."""
        with self._lock:
            return [*self._top.entries, *(entry for entries in self._left.values() for entry in entries)]

    # How a step is done

    @contextmanager
    def _opened(self, name: str) -> Iterator[_Step]:
        self._check_step()
        parent = self._here()
        step = self._new_step(parent, _as_name(name))
        token = _current.set(step)
        try:
            yield step
        finally:
            _current.reset(token)
            with self._lock:
                parent.open.discard(step.name)

    def _check_step(self) -> None:
        self.check()
        if self._stop_at_step:
            raise Stopped(self._stop_reason)

    def _new_step(self, parent: _Step, name: str) -> _Step:
        if not name.strip():
            raise FlowError("A step was begun without a name.", type="flow")
        with self._lock:
            if name in parent.open:
                raise FlowError(
                    f"The step “{name}” was begun while another step of that name is running. "
                    "Steps that run in parallel need names of their own.",
                    type="flow",
                )
            parent.open.add(name)
            ordinal = parent.children[name] = parent.children.get(name, 0) + 1
        return _Step(_key(parent.key, name, ordinal), name, graph=parent.graph, namespace=parent.namespace)

    def _replayed(self, step: _Step, recorded: Recorded, fingerprint: str) -> Any:
        self._accept(step, recorded, fingerprint)
        try:
            return values.load(recorded.result)
        except Exception as error:
            raise unreadable(step.name) from error

    def _accept(self, step: _Step, recorded: Recorded, fingerprint: str) -> None:
        """Take a step for done that an earlier attempt did; raises FlowError where that was another one."""
        if recorded.fingerprint != fingerprint:
            raise another_input(step.name)
        with self._lock:
            self._position = max(self._position, recorded.position)
        self._count(step)

    def _performed(self, step: _Step, fingerprint: str, do: Callable[[], tuple[Any, Any]]) -> Any:
        """Do a step; `do` returns its result and what is kept of it."""
        self._begin(step)
        result, kept, tries = self._tried(step, do)
        self._journal.record(self._record(step, fingerprint, kept, tries))
        self._tell_step(step, "done")
        return result

    def _begin(self, step: _Step) -> None:
        self._tell_step(step, "running", restarted=self._begins_again(step))
        self.log(f"▶ {step.name}")

    def _record(self, step: _Step, fingerprint: str, kept: Any = None, tries: int = 1) -> StepRecord:
        self._count(step)
        with self._lock:
            entries = list(step.entries)
        return StepRecord(
            step.key, step.name, fingerprint, kept, step.started_at, entries, self._progress, tries
        )

    def _begins_again(self, step: _Step) -> bool:
        """Note that a step begins; say whether it had begun before, or may have, in this attempt or an earlier one."""
        with self._lock:
            self._left.pop(step.key, None)  # what a failed try left is replaced
            again = self._may_have_begun or step.key in self._begun_steps
            self._begun_steps.add(step.key)
            return again

    def _tried(self, step: _Step, do: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any, int]:
        """Do the step until it succeeds; return its result, what is kept of it, and the number of tries."""
        tries = 1
        while True:
            try:
                result, kept = do()
                return result, kept, tries
            except Stopped:
                raise
            except BaseException as error:
                failure = classify_error(error)
                if step.got_on:
                    step.got_on, tries = False, 1  # each node of a graph has its own tries
                asked_to_wait = (failure.retryable and failure.retry_after) or 0.0
                if not failure.retryable or tries > self._step_retries or asked_to_wait > LONGEST_WAIT:
                    self._tell_step(step, "failed")
                    self._give_up(step)
                    if asked_to_wait > LONGEST_WAIT:
                        raise _asked_too_much(failure, asked_to_wait) from error
                    raise
                self._pause_before_retry(step, failure, tries)
                tries += 1

    def _pause_before_retry(self, step: _Step, failure: Failure, tries: int) -> None:
        pause = min(random.uniform(0.5, 1.0) * FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)  # noqa: S311
        pause = failure.retry_after or pause
        logger.info("execution %s: step %r, try %d: %s", self.id, step.name, tries, failure.type)
        with self._lock:
            step.entries.clear()
            step.children.clear()  # finished steps inside it have the same keys again, and are not done again
        self._tell_step(step, "running", restarted=True)
        step.failed_tries.append(
            f"↻ {failure.message} Trying again in {math.ceil(pause)} s ({tries} of {self._step_retries})."
        )
        for line in step.failed_tries:
            self.log(line)
        self.wait(pause)

    def _give_up(self, step: _Step) -> None:
        """Leave the entries of a failed step to the end of the execution, which keeps them."""
        with self._lock:
            self._left[step.key] = list(step.entries)

    # How a graph is done

    def _advanced(self, step: _Step, thread: "Thread", given: Any) -> tuple[Any, None]:
        """Let a graph go on from its last checkpoint to its end. Its state is kept there, not in the journal."""
        from main.tracing import Tracer

        self._accept_nodes(step)
        try:
            return thread.advanced(given, Tracer(self, step.name), step.name), None
        except Stopped:
            raise
        except BaseException:
            self._fail_nodes(self._nodes_in(step))  # LangGraph said nothing more of them
            raise

    def _thread_id(self, step: _Step) -> str:
        """Return the id of LangGraph's thread for the graph that a step is or is in."""
        return f"{self.id}/{step.graph.key if step.graph else ''}"

    def _accept_nodes(self, step: _Step) -> None:
        """Take the nodes of a graph for done that earlier attempts finished: they are not met again."""
        nodes = self._journal.nodes_in(step.key)
        with self._lock:
            self._finished_steps.update(nodes)
            self._position = max([self._position, *nodes.values()])

    def _nodes_in(self, step: _Step) -> list[_Step]:
        with self._lock:
            return [node for node in self._nodes.values() if node.key.startswith(f"{step.key}/")]

    def _finishing(self, node: _Step) -> Iterator[list[StepRecord]]:
        done = [*self._nodes_in(node), node]
        try:
            yield [self._record(each, NODE) for each in done]
        except BaseException as error:
            self._broken[self._thread_id(node)] = error
            if isinstance(error, Stopped):
                self._settle(done)
            else:
                self._fail_nodes(done)
            raise
        for each in done:
            self._tell_step(each, "done")
        self._settle(done)
        if node.graph:
            node.graph.got_on = True

    def _fail_nodes(self, nodes: list[_Step]) -> None:
        for node in nodes:
            self._tell_step(node, "failed")
            self._give_up(node)
        self._settle(nodes)

    def _settle(self, nodes: list[_Step]) -> None:
        with self._node_settled:
            self._nodes = {task: node for task, node in self._nodes.items() if node not in nodes}
            self._node_settled.notify_all()

    # What LangGraph calls, through tracing.py and the journal's checkpointer

    @property
    def here(self) -> str:
        """The key of the step that is being done in this context."""
        return self._here().key

    def is_node(self, namespace: str) -> bool:
        """Say whether what begins in one of LangGraph's namespaces is a node of a graph, and not inside of it."""
        here = self._here()
        return here.graph is not None and here.namespace != namespace

    def begin_node(self, name: str, number: str, namespace: str, superstep: int) -> Callable[[], None]:
        """Begin a node of a graph as a step in this context, and return what leaves it again.

        `number` tells it from other runs of the node. It is finished, or has failed, by `keeping_node`.
        """
        self._check_step()
        parent = self._here()
        node = _Step(
            key=_joined(parent.key, f"{_escaped(_as_name(name))}#{number}"),
            name=_as_name(name),
            graph=parent.graph,
            namespace=namespace,
            superstep=superstep,
        )
        with self._lock:
            self._nodes[namespace.rpartition(":")[2]] = node
        _current.set(node)
        self._begin(node)
        self._accept_nodes(node)
        return partial(_go_back, parent)

    @contextmanager
    def keeping_node(self, task: str, *, failed: bool) -> Iterator[list[StepRecord]]:
        """Let a node end: with what its block keeps, and the steps that it is given, the node is done.

        A node inside of it that nobody keeps by itself (of a graph without checkpoints) is done with it.
        """
        with self._lock:
            node = self._nodes.get(task)
        if node is None:  # one of LangGraph's own, such as the start
            yield []
        elif failed:
            yield []
            self._fail_nodes([node])
        else:
            yield from self._finishing(node)

    def await_nodes(self, thread_id: str, namespace: str, superstep: int) -> None:
        """Wait until the nodes of a graph's superstep are written down; raises what hindered that.

        LangGraph keeps what they wrote and the checkpoint after them at the same time. Were the checkpoint first,
        a crash could leave a node that is not run again, and is not shown as done.
        """

        def are_settled() -> bool:
            return not any(
                node.superstep <= superstep
                and node.namespace.rpartition("|")[0] == namespace
                and self._thread_id(node) == thread_id
                for node in self._nodes.values()
            )

        with self._node_settled:
            if not self._node_settled.wait_for(are_settled, NODE_PATIENCE):
                logger.warning("execution %s: nodes of superstep %d are not written down", self.id, superstep)
        if error := self._broken.pop(thread_id, None):
            raise error

    # How it is told

    def _here(self) -> _Step:
        return _current.get() or self._top

    def _add(self, entry: Entry) -> None:
        self.check()
        step = self._here()
        with self._lock:
            entry["step"] = step.key
            entry["n"] = step.entries[-1][1]["n"] + 1 if step.entries else 0
            self._position += 1
            position = self._position
            step.entries.append((position, entry))
        event = Event(**entry)  # type: ignore[typeddict-item]
        if "data" in entry:
            url = entry_address(self.id, step.key, entry["n"])
            event["data"] = without_large_data(entry["data"], url)
            if event["data"] is not entry["data"]:
                self._journal.keep_entry(position, entry)
        self._channel.send(event)

    def _tell_step(self, step: _Step, state: str, *, restarted: bool = False) -> None:
        event: Event = {"type": "step", "step": step.key, "name": step.name, "state": state}
        if restarted:
            event["restarted"] = True
        self._channel.send(event)

    def _count(self, step: _Step) -> None:
        with self._lock:
            self._finished_steps.add(step.key)  # once, also where the step around it is tried again
            done = len(self._finished_steps)
        if callable(self._expected_steps):  # looked up with the first step, not before the first event
            self._expected_steps = self._expected_steps()
        share = done / max(self._expected_steps, done) if self._expected_steps else 1 - 1 / (done + 1)
        self._advance(min(int(100 * share), 99))

    def _advance(self, percent: int) -> None:
        percent = min(percent, 100)
        with self._lock:
            if percent <= self._progress:
                return
            self._progress = percent
        self._channel.send({"type": "progress", "progress": percent})


def _asked_too_much(failure: Failure, seconds: float) -> FlowError:
    # No further try, neither here nor of a step around it: it would come too early.
    return FlowError(
        f"{failure.message} It asked for a pause of {math.ceil(seconds / 60)} minutes, which is too long to wait.",
        type=failure.type,
    )


def page_address(execution_id: str) -> str:
    """Return where a person sees an execution."""
    return f"/executions/{execution_id}/"


def entry_address(execution_id: str, step: str, n: int) -> str:
    """Return where an entry that is too large for a snapshot can be read whole."""
    return f"/api/v1/executions/{execution_id}/entry?step={quote(step)}&n={n}"


def _as_name(text: object) -> str:
    return values.clean_text(str(text))[:MAX_NAME_LENGTH]


def _key(parent: str, name: str, ordinal: int) -> str:
    """Return a step's key: the names on the way to it."""
    return _joined(parent, _escaped(name) + (f"#{ordinal}" if ordinal > 1 else ""))


def _escaped(name: str) -> str:
    return re.sub("[%/#]", lambda found: f"%{ord(found[0]):02X}", name)


def _joined(parent: str, own: str) -> str:
    """Return the key of a step in another. A long way is replaced by its hash."""
    key = f"{parent}/{own}" if parent else own
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    return f"{hashlib.sha256(parent.encode()).hexdigest()[:16]}/{own}"


def _effect_key(scope: str, step: str) -> str:
    """Return the idempotency key of a step. Its `%` stay: a step's key holds them as escapes only."""
    key = quote(step, safe=string.punctuation + " ")
    if len(scope) + 1 + len(key) > MAX_EFFECT_KEY_LENGTH:
        key = hashlib.sha256(step.encode()).hexdigest()
    return f"{scope}:{key}"


def step_name(key: str) -> str:
    """Return the name that a step's key ends with."""
    return unquote(key.rpartition("/")[2].partition("#")[0])


def another_input(name: str) -> FlowError:
    return FlowError(
        f"The step “{name}” was done before with another input. The flow takes another way than in its "
        "earlier attempt: what it decides by must come from a step.",
        type="flow",
    )


def unreadable(name: str) -> FlowError:
    return FlowError(
        f"What the step “{name}” returned before cannot be read back: the flow's code has changed since. "
        "Run it again from the start.",
        type="flow",
    )


def _go_back(step: _Step) -> None:
    _current.set(step)


def _kept(run: Run, step: _Step, what: Any, given: Any) -> tuple[Any, Any]:
    """Return what a callable or a Runnable returns, and what the journal keeps of it."""
    result = _invoked(run, step, what, given)
    return result, values.checked(result, step.name)


def _invoked(run: Run, step: _Step, what: Any, given: Any) -> Any:
    """Call a callable or a Runnable so that what LangChain does inside is reported to the run."""
    from langchain_core.runnables import Runnable
    from langchain_core.runnables.config import RunnableConfig, set_config_context

    from main.tracing import Tracer

    config = RunnableConfig(callbacks=[Tracer(run, step.name)], run_name=step.name)
    if isinstance(what, Runnable):
        return what.invoke({} if given is _NOTHING else given, config)
    with set_config_context(RunnableConfig(callbacks=config["callbacks"])) as context:
        return context.run(what) if given is _NOTHING else context.run(what, given)
