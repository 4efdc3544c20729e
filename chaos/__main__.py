"""`make chaos`: harm the running product in every way, and look whether anything was lost. Exit code 1 if so.

make chaos                              100 executions, each kind of fault once
make chaos N=1000 FAULTS=60 SEED=7      the full one
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.faults import FAKETIME, KINDS
from chaos.play import Play, starts
from chaos.processes import Shape
from chaos.report import summary, uncaught
from chaos.schedule import Planned, plan
from chaos.verdict import judge
from chaos.world import Place, prepare_database, running_world
from config import embedded
from config.servers import Servers

# More faults than this are a full run: they last longer, and stand further apart.
SMALL = 40
PAUSE, LONG_PAUSE = 3.0, 6.0
# Seconds at the end in which everything has to have ended.
PATIENCE = 90.0


def main() -> int:
    arguments = parse()
    print(f"N={arguments.n} FAULTS={arguments.faults} SEED={arguments.seed}", flush=True)
    local_dir = Path(tempfile.mkdtemp(prefix="ctm-chaos-", dir="/tmp"))  # short: the sockets are in it
    passed = asyncio.run(run(local_dir, arguments))
    if passed:
        shutil.rmtree(local_dir, ignore_errors=True)
    else:
        print(
            f"The logs are in {local_dir}. To see it again: make chaos N={arguments.n} "
            f"FAULTS={arguments.faults} SEED={arguments.seed}"
        )
    return 0 if passed else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--n", type=int, default=100, help="how many executions")
    parser.add_argument("--faults", type=int, default=len(KINDS), help="how many faults")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which run")  # noqa: S311
    parser.add_argument("--only", action="append", metavar="WORD", help="only kinds of fault with this word")
    return parser.parse_args()


async def run(local_dir: Path, arguments: argparse.Namespace) -> bool:
    """Run it all and say how it went; return whether it went well."""
    began = time.monotonic()
    planned = planned_faults(arguments)
    until = max(each.until for each in planned)
    executions = starts(arguments.seed, arguments.n, until)
    with embedded.owned(local_dir), Servers(local_dir, database_name="api_ctm") as servers:
        place = Place(local_dir, servers)
        await prepare_database(place)
        async with running_world(place, Shape()) as world:
            print(f"Ready after {time.monotonic() - began:.0f} s. The faults take {until:.0f} s.", flush=True)
            facts = await Play(world, say).play(executions, planned, PATIENCE)
    findings = judge(facts)
    print("", *uncaught(place.logs), sep="\n")
    print(f"\n{summary(facts, findings)}\nTook {time.monotonic() - began:.0f} s.", flush=True)
    return not findings and (FAKETIME.exists() or "CI" not in os.environ)


def planned_faults(arguments: argparse.Namespace) -> list[Planned]:
    kinds = [
        kind for kind in KINDS if not arguments.only or any(word in kind.name for word in arguments.only)
    ]
    long = arguments.faults > SMALL
    return plan(arguments.seed, kinds, arguments.faults, LONG_PAUSE if long else PAUSE, long=long)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
