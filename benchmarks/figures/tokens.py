"""Tokens a second from the flow to the client: sixteen runs at once that write one every 5 ms, and one run that does
not pause. Counted by what is written in them, from the start request to the last token: each has to come, and once.

What bounds the sixteen is their own pauses. A model of LangChain's takes its time, too: beside it, in the same process
and just before, LangChain alone.
"""

import asyncio
import time

from benchmarks.bench import Bench
from benchmarks.client import Connection, Person
from benchmarks.numbers import Numbers, check
from benchmarks.product import Product, database
from benchmarks.results import Beside, Row, at_least
from benchmarks.streams import Crowd, Door, ReadingWatcher

RUNS, PAUSE = 16, 0.005
PATIENCE = 60.0


async def measure_tokens(bench: Bench) -> list[Row]:
    product = bench.product
    await rate_of(product, 1, "token_flow", tokens=1000, pause=0.0)
    slow = await rate_of(product, RUNS, "token_flow", tokens=bench.choose(1000, 300), pause=PAUSE)
    fast = await rate_of(product, 1, "token_flow", tokens=bench.choose(60_000, 20_000), pause=0.0)
    tokens = bench.choose(20_000, 5000)
    model = await rate_of(product, 1, "model_flow", tokens=tokens)
    return [
        Row(
            f"tokens, {RUNS} runs at 5 ms each",
            slow,
            "/s",
            Beside("their pauses", RUNS / PAUSE),
            ratio_aim=at_least(0.9),
        ),
        Row("tokens, one run at 0 ms", fast, "/s", aim=at_least(12_000)),
        Row(
            "tokens, one run at 0 ms, by a model of LangChain's",
            model,
            "/s",
            Beside("LangChain alone", tokens / alone(product)),
        ),
    ]


async def rate_of(product: Product, runs: int, flow: str, *, tokens: int, **inputs: float) -> float:
    """Start so many runs at once; return how many tokens a second their watchers saw until the last had all."""
    began = time.perf_counter()
    seen = await asyncio.gather(
        *(watch_one(product, product.signed_in, flow, {"tokens": tokens, **inputs}) for _ in range(runs))
    )
    check(seen, tokens)
    return runs * tokens / (max(each.seen_at for each in seen) - began)


async def watch_one(product: Product, person: Person, flow: str, inputs: dict[str, float]) -> Numbers:
    seen = Numbers()
    async with await Connection.open(product.port) as connection:
        answer = await connection.started(flow, person, **inputs)
    watcher = ReadingWatcher(Door.of_started(answer, person).request(), seen.hear)
    async with Crowd(product.port, [watcher]), asyncio.timeout(PATIENCE):
        await seen.done
    return seen


def alone(product: Product) -> float:
    """Return the seconds that LangChain alone took in the newest run of a model."""
    with database(product.local_dir) as rows:
        found = rows.execute(
            "SELECT result -> 'alone' FROM main_execution WHERE flow = 'model_flow' ORDER BY created_at DESC LIMIT 1"
        ).fetchone()
    assert found
    return float(found[0])
