import time
from typing import TypedDict

from main.registry import flow
from main.run import Run


@flow(public=True, steps=4)
def four_step_flow(run: Run) -> str:
    """Do four steps that cost nothing themselves."""
    for number in range(4):
        run.step(f"Step {number}", str, number)
    return "done"


@flow(public=True)
def many_steps_flow(run: Run, steps: int = 300) -> float:
    """Return how many milliseconds one of many steps takes, whose call costs nothing itself."""
    began = time.perf_counter()
    for number in range(steps):
        run.step(f"Step {number}", str, number)
    return 1000 * (time.perf_counter() - began) / steps


class Count(TypedDict):
    value: int


class GraphCost(TypedDict):
    """Milliseconds for one node: by `run.graph`, and by LangGraph alone, which keeps nothing."""

    kept: float
    bare: float


@flow(public=True)
def many_nodes_flow(run: Run, nodes: int = 40) -> GraphCost:
    """Return what one of many nodes takes that cost nothing themselves."""
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import START, StateGraph

    graph = StateGraph(Count)
    before = START
    for number in range(nodes):
        graph.add_node(f"node_{number}", lambda state: {"value": state["value"] + 1})
        graph.add_edge(before, f"node_{number}")
        before = f"node_{number}"
    compiled = graph.compile()
    config = RunnableConfig(recursion_limit=nodes + 10)
    compiled.invoke({"value": 0}, config)
    began = time.perf_counter()
    compiled.invoke({"value": 0}, config)
    bare = time.perf_counter() - began
    run.graph(compiled.with_config(config), {"value": 0}, name="Warm up")
    began = time.perf_counter()
    run.graph(compiled.with_config(config), {"value": 0})
    kept = time.perf_counter() - began
    return {"kept": 1000 * kept / nodes, "bare": 1000 * bare / nodes}
