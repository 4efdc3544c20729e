"""What it costs to keep a step, and a node of a graph: the flow itself takes the time.

Beside a step, in turn: one commit of one small row on a connection of the benchmark's own. Beside a node: LangGraph
alone, which keeps nothing.
"""

import time
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.client import Connection, run_to_its_end
from benchmarks.product import Product, database
from benchmarks.results import Beside, Row, at_most

COMMITS = 200


async def measure_journal(bench: Bench) -> list[Row]:
    product = bench.product
    steps, commits, nodes = [], [], []
    for _ in range(bench.choose(5, 2)):
        steps.append(await result_of(product, "many_steps_flow"))
        commits.append(measure_commit(product))
        nodes.append(await result_of(product, "many_nodes_flow"))
    commit = Beside("one commit", median(commits))
    bare = Beside("LangGraph alone", median(node["bare"] for node in nodes))
    return [
        Row("a step that is kept", median(steps), "ms", beside=commit, aim=at_most(2)),
        Row(
            "a graph's node that is kept", median(node["kept"] for node in nodes), "ms", bare, aim=at_most(5)
        ),
    ]


async def result_of(product: Product, flow: str) -> Any:
    async with await Connection.open(product.port) as connection:
        task_id = await run_to_its_end(connection, flow, product.signed_in)
    with database(product.local_dir) as rows:
        found = rows.execute("SELECT result FROM main_execution WHERE id = %s", [task_id]).fetchone()
    assert found
    return found[0]


def measure_commit(product: Product) -> float:
    """Return how many milliseconds PostgreSQL takes to store one small row for good."""
    with database(product.local_dir) as rows:
        rows.autocommit = True
        rows.execute("CREATE TABLE IF NOT EXISTS benchmark_commit (value text)")
        began = time.perf_counter()
        for number in range(COMMITS):
            rows.execute("INSERT INTO benchmark_commit VALUES (%s)", [str(number)])
        return 1000 * (time.perf_counter() - began) / COMMITS
