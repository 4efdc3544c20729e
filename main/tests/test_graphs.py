"""Graphs of LangGraph in a flow: nodes are steps, and only those that did not finish run again."""

import json
import operator
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, TypedDict, cast

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from main.errors import FlowError
from main.run import Run, StepRecord, Stopped
from main.tests.memory import Channel, Journal, busy, shown
from main.values import ResultError

# What LangGraph takes for a node: a callable, a Runnable, or a graph.
Node = Any

pytestmark = pytest.mark.usefixtures("quick_retries")


class Words(TypedDict):
    words: Annotated[list[str], operator.add]


@dataclass
class Note:
    text: str


class Killed(Stopped):
    """The end of a worker in the middle of something."""


class Says:
    """A node that adds its word, after the outcomes that it was told: what it raises, or None for nothing."""

    def __init__(self, word: str, *outcomes: BaseException | None) -> None:
        self.word = word
        self.calls = 0
        self._outcomes = [*outcomes]

    def __call__(self, state: Any) -> dict[str, list[str]]:
        self.calls += 1
        if self._outcomes and (error := self._outcomes.pop(0)):
            raise error
        return {"words": [self.word]}


class Scripted(BaseChatModel):
    """A model that answers what it was told to, one word at a time."""

    answers: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise AssertionError("It streams.")

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        answer = self.answers.pop(0)
        for word in re.findall(r"\S+|\s+", answer.text):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if manager := kwargs.get("run_manager"):
                manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=0)
            for call in answer.tool_calls
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))


def line(*nodes: Node) -> StateGraph[Any]:
    """A graph of nodes a, b, c … one after the other."""
    graph = StateGraph(Words)
    names = "abcdefgh"[: len(nodes)]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    graph.add_edge(START, "a")
    for before, after in pairwise(names):
        graph.add_edge(before, after)
    return graph


def fan(*nodes: Node, last: Node) -> StateGraph[Any]:
    """A graph of nodes a, b, c … at once, and `last` after them."""
    graph = StateGraph(Words)
    graph.add_node("last", last)
    for name, node in zip("abcdefgh", nodes, strict=False):
        graph.add_node(name, node)
        graph.add_edge(START, name)
        graph.add_edge(name, "last")
    return graph


def told(channel: Channel) -> list[tuple[Any, ...]]:
    """The events of steps: key, state, and whether it was begun again."""
    return [
        (event["step"], event["state"], *(["again"] if event.get("restarted") else []))
        for event in channel.of("step")
    ]


# A graph is a step, and its nodes are steps


def test_a_graph_returns_what_its_invoke_would(run: Run) -> None:
    graph = line(Says("one"), Says("two"))
    state = run.graph(graph, {"words": ["zero"]})
    assert state == graph.compile().invoke({"words": ["zero"]}) == {"words": ["zero", "one", "two"]}


def test_nodes_are_steps_inside_the_graph(run: Run, journal: Journal, channel: Channel) -> None:
    run.graph(line(Says("one"), Says("two")), {"words": []}, name="Talk")
    assert told(channel) == [
        ("Talk", "running"),
        ("Talk/a#1", "running"),
        ("Talk/a#1", "done"),
        ("Talk/b#2", "running"),
        ("Talk/b#2", "done"),
        ("Talk", "done"),
    ]
    assert [(step.key, step.name, step.result) for step in journal.steps] == [
        ("Talk/a#1", "a", None),
        ("Talk/b#2", "b", None),
        ("Talk", "Talk", None),
    ]
    assert shown(run, journal) == [("Talk", "▶ Talk"), ("Talk/a#1", "▶ a"), ("Talk/b#2", "▶ b")]
    assert [event["progress"] for event in channel.of("progress")] == [50, 66, 75]


def test_what_a_node_says_belongs_to_it(run: Run, journal: Journal, channel: Channel) -> None:
    @tool
    def look(where: str) -> list[dict[str, str]]:
        """Look somewhere."""
        return [{"url": "https://example.com/", "content": where}]

    def a(state: Words) -> dict[str, list[str]]:
        run.log("looking")
        look.invoke("up")
        run.token("half")
        return {"words": [run.step("Think", lambda: "thought")]}

    run.graph(line(a, Says("two")), {"words": []})
    assert shown(run, journal) == [
        ("Graph", "▶ Graph"),
        ("Graph/a#1", "▶ a"),
        ("Graph/a#1", "looking"),
        ("Graph/a#1", "look"),
        ("Graph/a#1/Think", "▶ Think"),
        ("Graph/b#2", "▶ b"),
    ]
    assert [event["step"] for event in channel.of("token")] == ["Graph/a#1"]
    [result] = channel.of("tool_result")
    assert result["step_name"] == "a"


def test_models_stream_into_the_node_that_asks_them(run: Run, channel: Channel) -> None:
    def ask(text: str) -> Node:
        model = Scripted(answers=[AIMessage(text)])
        return lambda state: {"words": [model.invoke("?").text]}

    state = run.graph(line(ask("good day"), ask("good night")), {"words": []})
    assert state == {"words": ["good day", "good night"]}
    assert [(event["step"], event["text"]) for event in channel.of("token")] == [
        ("Graph/a#1", "good"),
        ("Graph/a#1", " "),
        ("Graph/a#1", "day"),
        ("Graph/b#2", "good"),
        ("Graph/b#2", " "),
        ("Graph/b#2", "night"),
    ]


def test_what_comes_after_a_node_is_not_its_own(run: Run, journal: Journal) -> None:
    run.graph(line(Says("one")), {"words": []})
    run.log("after")
    assert shown(run, journal)[-1] == ("", "after")


def test_a_node_that_runs_often_is_told_apart_by_its_superstep(run: Run, journal: Journal) -> None:
    says = Says("again")
    graph = line(says)
    graph.add_conditional_edges("a", lambda state: "a" if len(state["words"]) < 3 else END)
    assert run.graph(graph, {"words": []}) == {"words": ["again"] * 3}
    assert journal.keys == ["Graph/a#1", "Graph/a#2", "Graph/a#3", "Graph"]


def test_tasks_of_one_node_at_once_are_told_apart_by_their_order(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    graph = StateGraph(Words)
    graph.add_node("each", lambda word: {"words": [word.upper()]})
    graph.add_conditional_edges(
        START, lambda state: [Send("each", word) for word in state["words"]], ["each"]
    )
    for attempt in (1, 2):
        state = new_run(attempt=attempt).graph(graph, {"words": ["x", "y"]})
        assert state == {"words": ["x", "y", "X", "Y"]}
    assert sorted(journal.keys) == ["Graph", "Graph/each#1.1", "Graph/each#1.2"]


def test_nodes_of_a_subgraph_are_steps_inside_its_node(run: Run, journal: Journal) -> None:
    outer = line(line(Says("in"), Says("deeper")).compile(), Says("out"))
    assert run.graph(outer, {"words": []}) == {"words": ["in", "deeper", "out"]}
    assert journal.keys == ["Graph/a#1/a#1", "Graph/a#1/b#2", "Graph/a#1", "Graph/b#2", "Graph"]


def test_calls_of_a_subgraph_by_one_node_are_told_apart(run: Run, journal: Journal) -> None:
    inner = line(Says("in")).compile()
    graph = line(
        lambda state: {
            "words": [*inner.invoke({"words": []})["words"], *inner.invoke({"words": []})["words"]]
        }
    )
    assert run.graph(graph, {"words": []}) == {"words": ["in", "in"]}
    assert journal.keys == ["Graph/a#1/a#1", "Graph/a#1/a#1~1", "Graph/a#1", "Graph"]


def test_a_subgraph_without_checkpoints_is_done_with_its_node(
    run: Run, journal: Journal, channel: Channel
) -> None:
    inner = line(Says("in")).compile(checkpointer=False)
    assert run.graph(line(inner), {"words": []}) == {"words": ["in"]}
    assert journal.keys == ["Graph/a#1/a#1", "Graph/a#1", "Graph"]
    assert all(step["state"] == "done" for step in channel.snapshot.steps.values())


def test_a_node_can_send_the_graph_around_it_on(run: Run, journal: Journal, channel: Channel) -> None:
    def leave(state: Words) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="c", update={"words": ["left"]})

    outer = line(line(leave, Says("never")).compile(), Says("skipped"), Says("after"))
    graph = StateGraph(Words)
    for name in "ac":
        graph.add_node(name, outer.nodes[name].runnable)
    graph.add_edge(START, "a")
    assert run.graph(graph, {"words": []}) == {"words": ["left", "after"]}
    assert journal.keys == ["Graph/a#1/a#1", "Graph/a#1", "Graph/c#2", "Graph"]
    assert all(step["state"] == "done" for step in channel.snapshot.steps.values())


def test_a_graph_in_a_node_of_another_has_a_thread_of_its_own(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    inner, after = Says("in"), Says("after", Killed(), None)
    for attempt in (1, 2):
        run = new_run(attempt=attempt)

        def a(state: Words, run: Run = run) -> Any:
            run.graph(line(inner, after), {"words": []}, name="Inner")
            return {"words": ["out"]}

        if attempt == 1:
            with pytest.raises(Killed):
                run.graph(line(a), {"words": []})
        else:
            assert run.graph(line(a), {"words": []}) == {"words": ["out"]}
    assert (inner.calls, after.calls) == (1, 2)
    assert journal.keys == [
        "Graph/a#1/Inner/a#1",
        "Graph/a#1/Inner/b#2",
        "Graph/a#1/Inner",
        "Graph/a#1",
        "Graph",
    ]


def test_a_graph_outside_of_run_graph_is_told_as_before(run: Run, journal: Journal) -> None:
    run.step("Plain", line(Says("one")).compile(), {"words": []})
    assert journal.keys == ["Plain"]
    assert shown(run, journal) == [("Plain", "▶ Plain"), ("Plain", "▶ a")]


def test_an_agent_is_a_graph(run: Run, journal: Journal, channel: Channel) -> None:
    @tool
    def look(where: str) -> str:
        """Look somewhere."""
        return f"nothing {where}"

    call = AIMessage(
        "", tool_calls=[{"name": "look", "args": {"where": "up"}, "id": "1", "type": "tool_call"}]
    )
    agent = create_agent(Scripted(answers=[call, AIMessage("Nothing there.")]), [look])
    state = run.graph(agent, {"messages": [HumanMessage("Look up!")]}, name="Agent")
    assert [message.text for message in state["messages"]] == ["Look up!", "", "nothing up", "Nothing there."]
    assert journal.keys == ["Agent/model#1", "Agent/tools#2.1", "Agent/model#3", "Agent"]
    assert shown(run, journal) == [
        ("Agent", "▶ Agent"),
        ("Agent/model#1", "▶ model"),
        ("Agent/tools#2.1", "▶ tools"),
        ("Agent/tools#2.1", "look"),
        ("Agent/model#3", "▶ model"),
    ]
    assert {event["step"] for event in channel.of("token")} == {"Agent/model#3"}
    assert channel.text == "Nothing there."


def test_a_node_is_written_down_before_the_checkpoint_after_it(
    run: Run, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    record = journal.record

    def record_late(step: StepRecord) -> None:
        threading.Event().wait(0.05)  # as a slow database would
        known.append(sum(len(checkpoints[""]) for checkpoints in journal.checkpoints.storage.values()))
        record(step)

    monkeypatch.setattr(journal, "record", record_late)
    run.graph(line(Says("one"), Says("two")), {"words": []})
    assert known == [2, 3, 4], "the input's, the start's, then one for each node"


# A later attempt


def test_a_finished_graph_returns_its_state_and_runs_nothing(
    new_run: Callable[..., Run], journal: Journal, channel: Channel
) -> None:
    says = Says("one")
    states = [new_run(attempt=attempt).graph(line(says), {"words": []}) for attempt in (1, 2)]
    assert states == [{"words": ["one"]}] * 2
    assert says.calls == 1
    assert len(journal.steps) == 2
    assert channel.logs == ["▶ Graph", "▶ a"]


def test_only_the_unfinished_node_runs_again(
    new_run: Callable[..., Run], journal: Journal, channel: Channel
) -> None:
    one, two, three = Says("one"), Says("two", Killed()), Says("three")
    with pytest.raises(Killed):
        new_run().graph(line(one, two, three), {"words": []})
    later = new_run(attempt=2)
    later.go_on(50, {"Graph", "Graph/b#2"})
    assert later.graph(line(one, two, three), {"words": []}) == {"words": ["one", "two", "three"]}
    assert (one.calls, two.calls, three.calls) == (1, 2, 1)
    assert told(channel)[4:] == [
        ("Graph", "running", "again"),
        ("Graph/b#2", "running", "again"),
        ("Graph/b#2", "done"),
        ("Graph/c#3", "running"),
        ("Graph/c#3", "done"),
        ("Graph", "done"),
    ]
    assert journal.keys == ["Graph/a#1", "Graph/b#2", "Graph/c#3", "Graph"]
    assert {entry["message"] for entry in channel.snapshot.entries.values()} == {
        "▶ Graph",
        "▶ a",
        "▶ b",
        "▶ c",
    }


def test_of_parallel_nodes_only_the_unfinished_runs_again(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    kept = threading.Event()
    one, two, three = Says("one"), Waits("two", Killed(), until=kept), Says("three")

    def attempt(number: int) -> Any:
        return new_run(attempt=number).graph(fan(one, two, last=three), {"words": []})

    threading.Thread(target=notice, args=(journal, "Graph/a#1", kept), daemon=True).start()
    with pytest.raises(Killed):
        attempt(1)
    assert journal.keys == ["Graph/a#1"]
    assert attempt(2) == {"words": ["one", "two", "three"]}
    assert (one.calls, two.calls, three.calls) == (1, 2, 1)


class Waits(Says):
    """One that comes to its outcome when something has happened."""

    def __init__(self, word: str, *outcomes: BaseException | None, until: threading.Event) -> None:
        super().__init__(word, *outcomes)
        self._until = until

    def __call__(self, state: Any) -> dict[str, list[str]]:
        assert self._until.wait(10)
        return super().__call__(state)


def notice(journal: Journal, key: str, seen: threading.Event) -> None:
    while key not in journal.keys:
        seen.wait(0.005)
    seen.set()


def test_a_subgraph_goes_on_where_it_was(new_run: Callable[..., Run], journal: Journal) -> None:
    deep, deeper = Says("deep"), Says("deeper", Killed())
    graph = line(line(deep, deeper).compile())
    with pytest.raises(Killed):
        new_run().graph(graph, {"words": []})
    assert journal.keys == ["Graph/a#1/a#1"]
    assert new_run(attempt=2).graph(graph, {"words": []}) == {"words": ["deep", "deeper"]}
    assert (deep.calls, deeper.calls) == (1, 2)


def test_another_input_is_an_error(new_run: Callable[..., Run]) -> None:
    with pytest.raises(Killed):
        new_run().graph(line(Says("one"), Says("two", Killed())), {"words": []})
    for attempt, ends in ((2, "unfinished"), (3, "finished")):
        with pytest.raises(FlowError, match="“Graph” was done before with another input"):
            new_run(attempt=attempt).graph(line(Says("one")), {"words": [ends]})
        new_run(attempt=attempt).graph(line(Says("one"), Says("two")), {"words": []})


def test_a_state_of_data_is_read_back_as_it_was(new_run: Callable[..., Run]) -> None:
    class Notes(TypedDict):
        note: Note
        text: str
        number: float

    graph = StateGraph(Notes)
    graph.add_node("a", lambda state: {"note": Note("n"), "text": "nul \x00", "number": float("inf")})
    graph.add_edge(START, "a")
    states = [new_run(attempt=attempt).graph(graph, {"text": ""}) for attempt in (1, 2)]
    assert states == [{"note": Note("n"), "text": "nul \x00", "number": float("inf")}] * 2


def test_a_state_that_cannot_be_kept_fails_its_node_with_a_sentence(
    run: Run, journal: Journal, channel: Channel
) -> None:
    @dataclass
    class Local:
        text: str

    for odd in (threading.Lock(), Local("x"), {1: Local("x")}):
        graph = line(lambda state, odd=odd: {"words": [odd]}, Says("two"))
        with pytest.raises(ResultError, match="The state of a graph holds something that cannot be kept"):
            run.graph(graph, {"words": []})
    assert journal.keys == []
    assert {step["state"] for step in channel.snapshot.steps.values()} == {"failed"}


# Failures


def test_a_node_that_fails_with_what_is_worth_it_is_tried_again_and_no_other(
    run: Run, journal: Journal, channel: Channel
) -> None:
    one, two, three = Says("one"), Says("two", busy(), busy()), Says("three")
    assert run.graph(line(one, two, three), {"words": []}) == {"words": ["one", "two", "three"]}
    assert (one.calls, two.calls, three.calls) == (1, 3, 1)
    assert told(channel)[:12] == [
        ("Graph", "running"),
        ("Graph/a#1", "running"),
        ("Graph/a#1", "done"),
        ("Graph/b#2", "running"),
        ("Graph/b#2", "failed"),
        ("Graph", "running", "again"),
        ("Graph/b#2", "running", "again"),
        ("Graph/b#2", "failed"),
        ("Graph", "running", "again"),
        ("Graph/b#2", "running", "again"),
        ("Graph/b#2", "done"),
        ("Graph/c#3", "running"),
    ]
    expected = [
        ("Graph/a#1", "▶ a"),
        ("Graph", "↻ The oracle is asleep. Trying again in 1 s (1 of 3)."),
        ("Graph", "↻ The oracle is asleep. Trying again in 1 s (2 of 3)."),
        ("Graph/b#2", "▶ b"),
        ("Graph/c#3", "▶ c"),
    ]
    assert shown(run, journal) == expected
    entries = channel.snapshot.entries.values()
    assert sorted((entry["step"], entry["message"]) for entry in entries) == sorted(expected)


def test_each_node_has_its_own_tries(new_run: Callable[..., Run]) -> None:
    nodes = [Says(str(n), busy(), busy()) for n in range(4)]
    state = new_run(step_retries=2).graph(line(*nodes), {"words": []})
    assert state == {"words": ["0", "1", "2", "3"]}


def test_a_node_is_not_tried_for_ever(
    new_run: Callable[..., Run], journal: Journal, channel: Channel
) -> None:
    two = Says("two", *(busy() for _ in range(9)))
    run = new_run(step_retries=2)
    with pytest.raises(FlowError):
        run.graph(line(Says("one"), two), {"words": []})
    assert two.calls == 3
    assert told(channel)[-2:] == [("Graph/b#2", "failed"), ("Graph", "failed")]
    assert journal.keys == ["Graph/a#1"]
    assert ("Graph/b#2", "▶ b") in shown(run, journal)


def test_a_failure_that_is_not_worth_it_is_final_at_once(run: Run, channel: Channel) -> None:
    two = Says("two", FlowError("No such invoice.", type="not_found"))
    with pytest.raises(FlowError, match="No such invoice"):
        run.graph(line(Says("one"), two), {"words": []})
    assert two.calls == 1
    assert told(channel)[-1] == ("Graph", "failed")


def test_a_node_beside_one_that_failed_is_kept(run: Run, journal: Journal) -> None:
    kept = threading.Event()
    one, two = Says("one"), Waits("two", busy(), until=kept)
    threading.Thread(target=notice, args=(journal, "Graph/a#1", kept), daemon=True).start()
    assert run.graph(fan(one, two, last=Says("three")), {"words": []}) == {"words": ["one", "two", "three"]}
    assert (one.calls, two.calls) == (1, 2)


def test_an_edge_that_fails_lets_its_node_run_again(run: Run) -> None:
    says, edge = Says("one"), Says("", busy())
    graph = line(says)
    graph.add_node("z", Says("two"))
    graph.add_conditional_edges("a", lambda state: "z" if edge(state) else END)
    assert run.graph(graph, {"words": []}) == {"words": ["one", "two"]}
    assert (says.calls, edge.calls) == (2, 2)


def test_a_retry_of_langgraph_begins_the_node_again(run: Run, journal: Journal, channel: Channel) -> None:
    graph = StateGraph(Words)
    policy = RetryPolicy(initial_interval=0.001, max_attempts=2, retry_on=lambda error: True)
    graph.add_node("a", Says("one", ValueError("no")), retry_policy=policy)
    graph.add_edge(START, "a")
    assert run.graph(graph, {"words": []}) == {"words": ["one"]}
    assert told(channel)[1:4] == [
        ("Graph/a#1", "running"),
        ("Graph/a#1", "running", "again"),
        ("Graph/a#1", "done"),
    ]
    assert shown(run, journal) == [("Graph", "▶ Graph"), ("Graph/a#1", "▶ a")]


def test_a_stop_in_a_node_ends_the_graph_and_fails_nothing(
    run: Run, journal: Journal, channel: Channel
) -> None:
    def stop(state: Words) -> None:
        run.stop("Enough.")
        run.check()

    with pytest.raises(Stopped, match="Enough"):
        run.graph(line(Says("one"), stop, Says("three")), {"words": []})
    assert journal.keys == ["Graph/a#1"]
    assert told(channel)[-1] == ("Graph/b#2", "running")


def test_a_stop_in_one_of_two_nodes_ends_the_graph(new_run: Callable[..., Run], journal: Journal) -> None:
    run = new_run()

    def stop(state: Words) -> None:
        run.stop("Enough.")
        run.check()

    with pytest.raises(Stopped, match="Enough"):
        run.graph(fan(Says("one"), stop, last=Says("three")), {"words": []})
    later = new_run(attempt=2)
    graph = fan(Says("one"), Says("two"), last=Says("three"))
    assert later.graph(graph, {"words": []}) == {"words": ["one", "two", "three"]}


def test_a_worker_that_stops_lets_a_node_finish_and_begins_no_other(run: Run, journal: Journal) -> None:
    def a(state: Words) -> dict[str, list[str]]:
        run.stop_at_step("The worker is stopping.")
        return {"words": ["one"]}

    with pytest.raises(Stopped, match="stopping"):
        run.graph(line(a, Says("two")), {"words": []})
    assert journal.keys == ["Graph/a#1"]


def asks(state: Words) -> dict[str, list[str]]:
    return {"words": [interrupt("Really?")]}


@pytest.mark.parametrize(
    "graph",
    [
        line(asks),
        line(line(asks).compile()),
        line(Says("one")).compile(interrupt_before=["a"]),
        line(Says("one"), Says("two")).compile(interrupt_after=["a"]),
    ],
    ids=["a node", "a subgraph", "before", "after"],
)
def test_a_graph_that_asks_a_person_fails_with_a_sentence(run: Run, channel: Channel, graph: Any) -> None:
    with pytest.raises(FlowError, match="stopped to ask a person, and there is nobody to answer"):
        run.graph(graph, {"words": []})
    assert told(channel)[-1] == ("Graph", "failed")
    assert "running" not in {step["state"] for step in channel.snapshot.steps.values()}


def endless() -> StateGraph[Any]:
    graph = line(Says("on"))
    graph.add_edge("a", "a")
    return graph


@pytest.mark.parametrize(("limit", "supersteps"), [(None, 50), (7, 7), (9_999, 50)])
def test_a_graph_without_an_end_is_ended(
    run: Run, journal: Journal, limit: int | None, supersteps: int
) -> None:
    graph = endless().compile()
    if limit:
        graph = graph.with_config(recursion_limit=limit)
    with pytest.raises(FlowError, match=f"came to no end within {supersteps} supersteps"):
        run.graph(graph, {"words": []})
    assert len(journal.steps) == supersteps


@pytest.mark.parametrize("odd", [lambda state: state, None, Says("one")])
def test_what_is_no_graph_is_refused(run: Run, odd: Any) -> None:
    with pytest.raises(FlowError, match=r"run\.graph takes a StateGraph, or one that is compiled"):
        run.graph(odd, {"words": []})


def test_nodes_in_parallel_are_not_held_up_by_each_other(run: Run) -> None:
    meet = threading.Barrier(20, timeout=10)
    graph = StateGraph(Words)

    def each(word: Any) -> Any:
        meet.wait()
        return {"words": [word]}

    graph.add_node("each", cast(Node, each))
    graph.add_conditional_edges(START, lambda state: [Send("each", str(n)) for n in range(20)], ["each"])
    assert len(run.graph(graph, {"words": []})["words"]) == 20
