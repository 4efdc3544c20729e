"""`make bench`: measure the product beside bounds of the same run, print a table, write JSON.

ARGS="--quick" repeats less, ARGS="--only NAME" measures one figure.
"""

import argparse
import time
from typing import Any

import uvloop

from benchmarks.bench import prepared_bench
from benchmarks.figures import FIGURES
from benchmarks.results import Row, machine, table, write


def main() -> None:
    arguments = parse()
    facts = machine()
    print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()), flush=True)
    began = time.perf_counter()
    rows = uvloop.run(measure(arguments.only or list(FIGURES), quick=arguments.quick))
    facts |= {"quick": arguments.quick, "seconds": round(time.perf_counter() - began, 1)}
    report(rows, facts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="repeat less: under 40 s, and less exact")
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    return parser.parse_args()


async def measure(names: list[str], *, quick: bool) -> list[Row]:
    rows = []
    with prepared_bench(quick=quick) as bench:
        for name in (each for each in FIGURES if each in names):
            print(f"{name} ...", flush=True)
            rows += await FIGURES[name](bench)
    return rows


def report(rows: list[Row], facts: dict[str, Any]) -> None:
    print(f"\n{table(rows)}\n")
    unmet = [row.figure for row in rows if row.is_met is False]
    print(
        f"Took {facts['seconds']} s. " + (f"Not met: {', '.join(unmet)}." if unmet else "All aims are met.")
    )
    print(f"Written to {write(rows, facts)}")


if __name__ == "__main__":
    main()
