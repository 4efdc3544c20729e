"""Flows with graphs, for tests of the engine. Every call of a node leaves a file in a folder."""

import operator
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from main.chat_models import ChatModel
from main.errors import FlowError
from main.registry import flow
from main.run import Run
from main.tests.engine_flows import _called as called


class Words(TypedDict):
    words: Annotated[list[str], operator.add]


@flow(public=True)
def graph_flow(run: Run, folder: str) -> list[str]:
    """Run a graph whose second superstep has two nodes at once: `quick`, and `slow`, which waits for a file `open`."""
    from langgraph.graph import START, StateGraph

    path = Path(folder)

    def node(name: str) -> Any:
        def do(state: Words) -> dict[str, list[str]]:
            run.log(f"In {name}")
            said = called(path, name)
            while name == "slow" and not (path / "open").exists():
                time.sleep(0.02)
                run.check()
            return {"words": [said]}

        return do

    graph = StateGraph(Words)
    for name in ("first", "quick", "slow", "last"):
        graph.add_node(name, node(name))
    graph.add_edge(START, "first")
    for name in ("quick", "slow"):
        graph.add_edge("first", name)
        graph.add_edge(name, "last")
    words: list[str] = run.graph(graph, {"words": []})["words"]
    return words


@flow(public=True)
def failing_graph_flow(run: Run, folder: str) -> list[str]:
    """Run a graph whose second node, in a subgraph, fails until there is a file `open`."""
    from langgraph.graph import START, StateGraph

    path = Path(folder)

    def node(name: str) -> Any:
        def do(state: Words) -> dict[str, list[str]]:
            said = called(path, name)
            if name == "shut" and not (path / "open").exists():
                raise FlowError("The gate is shut.", type="shut")
            return {"words": [said]}

        return do

    inner = StateGraph(Words)
    inner.add_node("before", node("before"))
    inner.add_node("shut", node("shut"))
    inner.add_edge(START, "before")
    inner.add_edge("before", "shut")
    graph = StateGraph(Words)
    graph.add_node("first", node("first"))
    graph.add_node("gate", inner.compile())
    graph.add_edge(START, "first")
    graph.add_edge("first", "gate")
    words: list[str] = run.graph(graph, {"words": []})["words"]
    return words


@flow(public=True)
def agent_flow(run: Run, llm: ChatModel, question: str) -> str:
    """Ask an agent."""
    from langchain.agents import create_agent

    state = run.graph(create_agent(llm, []), {"messages": [("user", question)]}, name="Agent")
    return str(state["messages"][-1].text)
