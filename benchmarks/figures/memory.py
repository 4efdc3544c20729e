"""The memory of the product's own processes while they do nothing; the databases are not counted."""

import asyncio
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.client import Connection, run_to_its_end
from benchmarks.product import Product
from benchmarks.results import Row, at_most

# Seconds in which what a start or an execution left behind comes to rest.
REST = 2.0
# How often each flow is run before memory is looked at again: every process and thread had its turn.
USES = 4


async def measure_memory(bench: Bench) -> list[Row]:
    await asyncio.sleep(REST)
    parts = {name: proportional_set(bench.product, name) for name in bench.product.guards}
    await use(bench.product)
    await asyncio.sleep(REST)
    used_parts = {name: proportional_set(bench.product, name) for name in bench.product.guards}
    return [
        Row("idle memory, just started", sum(parts.values()), "MB", aim=at_most(400)),
        *(Row(f"  {name}", value, "MB") for name, value in parts.items()),
        Row("idle memory, after first executions", sum(used_parts.values()), "MB", aim=at_most(400)),
        *(Row(f"  {name}, after", value, "MB") for name, value in used_parts.items()),
    ]


def proportional_set(product: Product, name: str) -> float:
    """Return a process's PSS with its children's in MB: pages that n processes share count 1/n each."""
    return sum(pss(process.pid) for process in product.processes(name))


def pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


async def use(product: Product) -> None:
    """Run a flow of LangChain's in the io worker, and one with a step in the cpu worker."""
    async with await Connection.open(product.port) as connection:
        for flow in ("poem_flow", "computing_flow"):
            for _ in range(USES):
                await run_to_its_end(connection, flow, product.signed_in)
