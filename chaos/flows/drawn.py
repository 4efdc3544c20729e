import operator
from typing import Annotated, Any, TypedDict

from chaos.asking import RETRIES, ask_and_log, told
from main.registry import flow
from main.run import Run


class Marks(TypedDict):
    marks: Annotated[list[str], operator.add]


@flow(public=True, steps=4, step_retries=RETRIES)
def drawn_flow(run: Run, tag: str, seconds: float) -> dict[str, object]:
    """Run a graph: two nodes at once, between one before and one after."""
    from langgraph.graph import END, START, StateGraph

    def node(name: str) -> Any:
        return lambda state: {"marks": [ask_and_log(run, name, seconds / 3)]}

    graph = StateGraph(Marks)
    for name in ("Draw", "Left", "Right", "Frame"):
        graph.add_node(name, node(name))
    graph.add_edge(START, "Draw")
    graph.add_edge("Draw", "Left")
    graph.add_edge("Draw", "Right")
    graph.add_edge(["Left", "Right"], "Frame")
    graph.add_edge("Frame", END)
    return told(run, run.graph(graph, {"marks": []}, name="Picture")["marks"])
