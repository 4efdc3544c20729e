"""What LangChain does inside a step, as watchers are told: with real chains, tools, agents and graphs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from operator import itemgetter
from typing import Any, TypedDict

import orjson
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph

from main.demo_model import DemoChatModel
from main.events import Event
from main.run import Run, Stopped
from main.tests.memory import Channel, Journal

HITS = [{"url": "https://example.org/tides", "content": "The moon pulls the sea."}]


class ScriptedModel(BaseChatModel):
    """Streams the given messages, a word a chunk; `before_word` is called with each word."""

    script: list[AIMessage]
    before_word: Callable[[str], object] = lambda word: None

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise AssertionError("not streamed")

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self.script.pop(0)
        for word in str(message.content).split():
            self.before_word(word)
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
            if run_manager:
                run_manager.on_llm_new_token(f"{word} ", chunk=chunk)
            yield chunk
        calls = [
            tool_call_chunk(
                name=call["name"], args=orjson.dumps(call["args"]).decode(), id=call["id"], index=n
            )
            for n, call in enumerate(message.tool_calls)
        ]
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", tool_call_chunks=calls, usage_metadata=usage)  # type: ignore[arg-type]
        )


def says(*texts: str, before_word: Callable[[str], object] = lambda word: None) -> ScriptedModel:
    return ScriptedModel(script=[AIMessage(text) for text in texts], before_word=before_word)


@tool
def look(question: str) -> list[dict[str, str]]:
    """Look something up."""
    return HITS


@tool
def break_down(question: str) -> str:
    """Break."""
    raise ValueError("password=hunter2")


class Shelf(BaseRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        if query == "burn":
            raise ValueError("password=hunter2")
        return [
            Document("A", metadata={"source": "https://example.org/a"}),
            Document("B", metadata={"page": 2}),
        ]


count_up: RunnableLambda[list[Any], int] = RunnableLambda(lambda items: len(items))


@pytest.fixture
def run(channel: Channel) -> Run:
    return Run("7", journal=Journal(), channel=channel)


def shown(event: Event) -> tuple[str, str, Any]:
    return event["step_name"], event["tool"], event["data"]


# Tokens


def test_a_model_streams_though_it_is_only_invoked(run: Run, channel: Channel) -> None:
    chain = (
        ChatPromptTemplate.from_template("A poem about {theme}") | says("Roses are red") | StrOutputParser()
    )
    assert run.step("Write", chain, {"theme": "roses"}) == "Roses are red "
    assert [event["text"] for event in channel.of("token")] == ["Roses ", "are ", "red "]
    assert {event["step"] for event in channel.of("token")} == {"Write"}


def test_the_demo_model_streams_too(run: Run, channel: Channel) -> None:
    chain = DemoChatModel() | StrOutputParser()
    assert run.step("Write", chain, "Write a poem about the sea") == channel.text
    assert len(channel.of("token")) > 20
    assert run.usage["output_tokens"] > 0


def test_a_model_that_is_not_chatty_streams_as_well(run: Run, channel: Channel) -> None:
    assert run.step("Write", FakeListLLM(responses=["abc"]), "x") == "abc"
    assert channel.of("state")[0]["status"] == "Waiting for Write …"


def test_a_model_inside_a_plain_callable_streams(run: Run, channel: Channel) -> None:
    assert run.step("Write", lambda: says("Roses are").invoke("x").text) == "Roses are "
    assert channel.text == "Roses are "


def test_it_is_told_what_is_waited_for(run: Run, channel: Channel) -> None:
    run.step("Write", says("Roses"), "x")
    assert [event["status"] for event in channel.of("state")] == ["Waiting for Write …", "Writing …"]


def test_usage_is_summed_over_calls(run: Run) -> None:
    model = says("one", "two", "three")
    run.step("One", model | StrOutputParser() | model, "x")
    run.step("Two", model, "x")
    assert run.usage == {"input_tokens": 9, "output_tokens": 6, "total_tokens": 15}


def test_models_one_after_the_other_write_with_an_empty_line_between(run: Run, channel: Channel) -> None:
    model = says("First thoughts", "Second thoughts")
    run.step("Think", model | StrOutputParser() | model, "x")
    assert channel.text == "First thoughts \n\nSecond thoughts "


def test_models_that_write_at_the_same_time_do_not_mix(run: Run, channel: Channel) -> None:
    meet = threading.Barrier(2, timeout=10)
    branches: Any = {
        name: says(f"{name}1 {name}2 {name}3", before_word=lambda _: meet.wait()) for name in "ab"
    }
    answers = run.step(
        "Both", RunnableParallel(**{name: model | StrOutputParser() for name, model in branches.items()}), "x"
    )
    assert answers == {"a": "a1 a2 a3 ", "b": "b1 b2 b3 "}
    assert channel.text in ("a1 a2 a3 \n\nb1 b2 b3 ", "b1 b2 b3 \n\na1 a2 a3 ")
    assert run.usage["total_tokens"] == 10


def test_a_model_that_breaks_off_lets_the_next_write(run: Run, channel: Channel) -> None:
    def break_off(word: str) -> None:
        if word == "broken":
            raise ValueError("gone")

    model = says("Half broken", before_word=break_off).with_fallbacks([says("All well")])
    run.step("Write", model | StrOutputParser(), "x")
    assert channel.text == "Half \n\nAll well "


# Names


def test_named_parts_are_logged_and_unnamed_ones_are_not(run: Run, channel: Channel) -> None:
    ask: Any = RunnableLambda(lambda q: {"q": q})
    find = (ask | RunnablePassthrough()).with_config(run_name="Find sources")
    prompt = ChatPromptTemplate.from_template("{q}").with_config(run_name="Build the prompt")
    unnamed: Any = RunnableLambda(lambda x: x) | itemgetter("q") | RunnableParallel(q=RunnablePassthrough())
    model = says("Fine").with_config(run_name="Ask the model")
    run.step("Answer", find | unnamed | prompt | model | StrOutputParser(), "why?")
    assert channel.logs == ["▶ Answer", "▶ Find sources", "▶ Build the prompt", "▶ Ask the model"]


def test_the_step_itself_is_announced_once(run: Run, channel: Channel) -> None:
    for what in (says("x", "y"), look, Shelf(), RunnableLambda(lambda x: x), says("z") | StrOutputParser()):
        channel.events.clear()
        run.step("Once", what, "x")
        assert channel.logs == ["▶ Once"]


def test_a_named_chain_inside_a_callable_is_logged(run: Run, channel: Channel) -> None:
    chain = (says("Fine") | StrOutputParser()).with_config(run_name="Ask")
    run.step("Answer", lambda: chain.invoke("x"))
    assert channel.logs == ["▶ Answer", "▶ Ask"]


def test_a_class_that_is_imported_later_is_no_name(run: Run, channel: Channel) -> None:
    run.step("First", RunnableLambda(lambda x: x).with_config(run_name="Anything"), "x")

    class LateModel(ScriptedModel):
        pass

    channel.events.clear()
    run.step("Late", LateModel(script=[AIMessage("x")]) | StrOutputParser(), "x")
    assert channel.logs == ["▶ Late"]


# Tools and retrievers


def test_a_tool_result_bears_the_name_of_its_part(run: Run, channel: Channel) -> None:
    find = (look | RunnableLambda(lambda hits: hits)).with_config(run_name="Search the web")
    run.step("Answer", find | count_up, "tides")
    assert [shown(event) for event in channel.of("tool_result")] == [("Search the web", "look", HITS)]


def test_a_tool_may_be_given_a_name_itself(run: Run, channel: Channel) -> None:
    run.step("Answer", look.with_config(run_name="Ask the library") | count_up, "tides")
    assert channel.logs == ["▶ Answer", "▶ Ask the library"]
    assert [shown(event) for event in channel.of("tool_result")] == [("Ask the library", "look", HITS)]


def test_a_tool_alone_is_shown_under_its_step(run: Run, channel: Channel) -> None:
    run.step("Search", look, "tides")
    assert [shown(event) for event in channel.of("tool_result")] == [("Search", "look", HITS)]
    assert [event["status"] for event in channel.of("state")] == ["Using look …"]


def test_a_tool_called_by_plain_code_is_shown(run: Run, channel: Channel) -> None:
    run.step("Search", lambda: look.invoke("tides"))
    assert [shown(event) for event in channel.of("tool_result")] == [("Search", "look", HITS)]


def test_a_tool_in_a_thread_is_shown_under_its_step(run: Run, channel: Channel) -> None:
    def search() -> Any:
        with ThreadPoolExecutor() as pool:
            return pool.submit(copy_context().run, look.invoke, "tides").result()

    run.step("Search", search)
    [event] = channel.of("tool_result")
    assert (event["step"], *shown(event)) == ("Search", "Search", "look", HITS)


def test_tools_in_parallel_are_all_shown(run: Run, channel: Channel) -> None:
    branches: Any = {f"b{n}": (look | count_up).with_config(run_name=f"Branch {n}") for n in range(4)}
    run.step("All", RunnableParallel(**branches), "tides")
    assert sorted(event["step_name"] for event in channel.of("tool_result")) == [
        f"Branch {n}" for n in range(4)
    ]


class Odd:
    pass


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "text": ("plain", "plain"),
    "json": ('[{"url": "u"}]', [{"url": "u"}]),
    "almost_json": ("[not json", "[not json"),
    "documents": ([Document("A", metadata={"url": "u"}), "b"], [{"url": "u", "content": "A"}, "b"]),
    "nothing": (None, None),
    "tuple": ((1, {2}), [1, [2]]),
    "odd": (Odd(), "(Odd)"),
    "odd_inside": ([{"a": Odd()}], "(list)"),
}


@pytest.mark.parametrize(("output", "data"), OUTPUTS.values(), ids=OUTPUTS)
def test_whatever_a_tool_returns_can_be_shown(run: Run, channel: Channel, output: Any, data: Any) -> None:
    @tool
    def give(question: str) -> Any:
        """Give."""
        return output

    run.step("Give", give | RunnableLambda(lambda _: "used"), "x")
    assert [shown(event) for event in channel.of("tool_result")] == [("Give", "give", data)]


@pytest.mark.parametrize(("artifact", "data"), [(HITS, HITS), (None, "short"), (Odd(), "short")])
def test_of_a_tool_message_the_artifact_is_shown(
    run: Run, channel: Channel, artifact: Any, data: Any
) -> None:
    @tool(response_format="content_and_artifact")
    def give(question: str) -> Any:
        """Give."""
        return "short", artifact

    call = {"type": "tool_call", "name": "give", "id": "1", "args": {"question": "x"}}
    run.step("Give", give | RunnableLambda(lambda message: message.content), call)
    assert [event["data"] for event in channel.of("tool_result")] == [data]


def test_a_tool_that_fails_says_so_and_keeps_its_secrets(run: Run, channel: Channel) -> None:
    with pytest.raises(ValueError, match="hunter2"):
        run.step("Break", break_down, "x")
    assert channel.logs == ["▶ Break", "✗ break_down failed."]
    assert "hunter2" not in str(channel.events)


def test_a_retriever_shows_its_documents(run: Run, channel: Channel) -> None:
    run.step("Read", Shelf().with_config(run_name="Look in the shelf") | count_up, "x")
    assert channel.logs == ["▶ Read", "▶ Look in the shelf"]
    assert [shown(event) for event in channel.of("tool_result")] == [
        (
            "Look in the shelf",
            "Look in the shelf",
            [{"url": "https://example.org/a", "content": "A"}, {"content": "B"}],
        )
    ]


def test_a_retriever_without_a_name_is_called_by_its_class(run: Run, channel: Channel) -> None:
    run.step("Read", Shelf() | count_up, "x")
    assert [event["tool"] for event in channel.of("tool_result")] == ["Shelf"]
    with pytest.raises(ValueError, match="hunter2"):
        run.step("Burn", Shelf() | count_up, "burn")
    assert channel.logs == ["▶ Read", "▶ Burn", "✗ Shelf failed."]


# Stops


def test_a_stop_ends_a_model_in_the_middle_of_its_answer(run: Run, channel: Channel) -> None:
    said: list[str] = []

    def count(word: str) -> None:
        said.append(word)
        if len(said) == 3:
            run.stop("Cancelled.")

    with pytest.raises(Stopped, match=r"Cancelled\."):
        run.step("Write", says("word " * 1000, before_word=count) | StrOutputParser(), "x")
    assert len(said) == 3
    assert channel.text == "word word "


@pytest.mark.parametrize(
    "what", [says("x"), look, Shelf(), FakeListLLM(responses=["x"]), RunnableLambda(lambda _: None)]
)
def test_after_a_stop_nothing_more_is_called(run: Run, channel: Channel, what: Any) -> None:
    def stop(text: str) -> str:
        run.stop("Enough.")
        return text

    with pytest.raises(Stopped):
        run.step("Stop", RunnableLambda(stop) | what, "x")
    assert channel.of("token") == channel.of("tool_result") == []


def test_a_stop_is_not_taken_for_a_failure_worth_a_retry(run: Run) -> None:
    tried: list[str] = []

    def stop(word: str) -> None:
        tried.append(word)
        run.stop("Enough.")

    model = says("a", "b", "c", before_word=stop)
    with pytest.raises(Stopped):
        run.step("Write", model.with_retry(wait_exponential_jitter=False).with_fallbacks([model]), "x")
    assert tried == ["a"]


# Agents and graphs


def test_an_agent_shows_its_tools_and_its_answer(run: Run, channel: Channel) -> None:
    model = ScriptedModel(
        script=[
            AIMessage("I look.", tool_calls=[{"name": "look", "args": {"question": "tides"}, "id": "1"}]),
            AIMessage("The moon."),
        ]
    )
    state = run.step("Agent", create_agent(model, [look]), {"messages": [HumanMessage("Why?")]})
    assert state["messages"][-1].text == "The moon. "
    assert channel.text == "I look. \n\nThe moon. "
    assert [shown(event) for event in channel.of("tool_result")] == [("tools", "look", HITS)]
    assert channel.logs == ["▶ Agent", "▶ model", "▶ tools", "▶ model"]
    assert run.usage["total_tokens"] == 10


class State(TypedDict, total=False):
    question: str
    hits: int
    answer: str


def test_a_graph_shows_its_nodes_tools_and_tokens(run: Run, channel: Channel) -> None:
    def search(state: State) -> State:
        return {"hits": len(look.invoke(state["question"]))}

    def write(state: State) -> State:
        return {"answer": says(f"Found {state['hits']}").invoke("x").text}

    graph = StateGraph(State)
    graph.add_node("Search", search)
    graph.add_node("Write", write)
    graph.add_edge(START, "Search")
    graph.add_edge("Search", "Write")
    state = run.step("Graph", graph.compile(), {"question": "tides"})
    assert state["answer"] == channel.text == "Found 1 "
    assert [shown(event) for event in channel.of("tool_result")] == [("Search", "look", HITS)]
    assert channel.logs == ["▶ Graph", "▶ Search", "▶ Write"]


def test_a_step_inside_a_node_is_kept(run: Run, channel: Channel) -> None:
    def search(state: State) -> State:
        return {"hits": run.step("Count", count_up, [1, 2, 3])}

    graph = StateGraph(State)
    graph.add_node("Search", search)
    graph.add_edge(START, "Search")
    assert run.step("Graph", graph.compile(), {"question": "x"})["hits"] == 3
    assert [event["step"] for event in channel.of("step") if event["state"] == "done"] == [
        "Graph/Count",
        "Graph",
    ]
