"""`make bench`: measure the product beside bounds of the same run, print a table, write JSON.

ARGS="--quick" repeats less, ARGS="--only NAME" measures one figure, ARGS="--save-baseline" writes down what later runs
are compared with.
"""

import argparse
import resource
import sys
import time
import traceback
from typing import Any

import uvloop

from benchmarks import baseline, growth_plot
from benchmarks.bench import prepared_bench
from benchmarks.figures import FIGURES
from benchmarks.results import Row, machine, table, write


def main() -> None:
    arguments = parse()
    allow_many_files()
    facts = machine()
    print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()), flush=True)
    began = time.perf_counter()
    rows, failed = uvloop.run(measure(arguments.only or list(FIGURES), quick=arguments.quick))
    facts |= {"quick": arguments.quick, "seconds": round(time.perf_counter() - began, 1)}
    report(rows, facts)
    if arguments.save_baseline:
        baseline.save(rows, facts)
        growth_plot.keep()
    if failed:
        sys.exit(f"These could not be measured: {', '.join(failed)}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="repeat less, and be less exact")
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--save-baseline", action="store_true", help="compare later runs with this one")
    return parser.parse_args()


def allow_many_files() -> None:
    """Let this process, and all that it starts, have as many open streams as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def measure(names: list[str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """Return the rows, and the names of figures that failed; each says at once why it did."""
    rows: list[Row] = []
    failed = []
    with prepared_bench(quick=quick) as bench:
        for name in (each for each in FIGURES if each in names):
            print(f"{name} ...", flush=True)
            try:
                rows += await FIGURES[name](bench)
            except Exception:  # noqa: BLE001 the other figures are worth having
                traceback.print_exc()
                failed.append(name)
    return rows, failed


def report(rows: list[Row], facts: dict[str, Any]) -> None:
    print(f"\n{table(rows)}\n")
    unmet = [row.figure for row in rows if row.is_met is False]
    print(
        f"Took {facts['seconds']} s. " + (f"Not met: {', '.join(unmet)}." if unmet else "All aims are met.")
    )
    for each in baseline.worse(rows, baseline.load()):
        print(f"Worse than the baseline: {each}")
    print(f"Written to {write(rows, facts)}")


if __name__ == "__main__":
    main()
