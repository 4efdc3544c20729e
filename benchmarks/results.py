"""Rows of figures: as a table to read, as JSON to keep."""

import math
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).resolve().parent / "results"
HEADINGS = ("figure", "value", "beside, in the same run", "ratio", "aim", "met")


@dataclass(frozen=True)
class Aim:
    """What a value shall not go above, or below."""

    limit: float
    above: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.above else '≤'} {self.limit:g}"

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.above else value <= self.limit


def at_most(limit: float) -> Aim:
    return Aim(limit)


def at_least(limit: float) -> Aim:
    return Aim(limit, above=True)


@dataclass(frozen=True)
class Beside:
    """What the same run measured for comparison: a bound or a peer, in the unit of the row."""

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One measured value. `ratio_aim` is an aim for value / beside."""

    figure: str
    value: float
    unit: str
    beside: Beside | None = None
    aim: Aim | None = None
    ratio_aim: Aim | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside.value if self.beside and self.beside.value else None

    @property
    def more_is_better(self) -> bool:
        """Whether the value shall be high: what an aim says, or else what its unit does."""
        aim = self.aim or self.ratio_aim
        return aim.above if aim else self.unit == "/s"

    @property
    def is_met(self) -> bool | None:
        """Whether all aims are met; None where there is none."""
        met = [self.aim.is_met(self.value)] if self.aim else []
        if self.ratio_aim and self.ratio is not None:
            met.append(self.ratio_aim.is_met(self.ratio))
        return all(met) if met else None

    def cells(self) -> tuple[str, ...]:
        beside = f"{self.beside.name}: {readable(self.beside.value)}" if self.beside else ""
        ratio = "" if self.ratio is None else f"{readable(self.ratio)} ×"
        aims = [str(self.aim)] if self.aim else []
        aims += [f"{self.ratio_aim} ×"] if self.ratio_aim else []
        met = {True: "yes", False: "NO", None: ""}[self.is_met]
        return (self.figure, f"{readable(self.value)} {self.unit}", beside, ratio, ", ".join(aims), met)

    def as_json(self) -> dict[str, Any]:
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "beside": {"name": self.beside.name, "value": self.beside.value} if self.beside else None,
            "ratio": self.ratio,
            "aim": str(self.aim) if self.aim else None,
            "ratio_aim": str(self.ratio_aim) if self.ratio_aim else None,
            "met": self.is_met,
        }


def readable(value: float) -> str:
    """Return a number with three digits that count."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}"


def table(rows: Iterable[Row]) -> str:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "commit": commit(),
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def commit() -> str:
    """Return the short id of the checked-out commit, with a "+" where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=9", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(rows: Iterable[Row], facts: dict[str, Any]) -> Path:
    """Write one JSON file for this run and return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    content = {"machine": facts, "rows": [row.as_json() for row in rows]}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return path
