"""What an earlier run found, to see what has become worse since: benchmarks/baseline.json, which is committed.

Compared is the ratio of a figure to what the same run measured beside it, because times change with the machine.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from benchmarks.results import Row, readable

PATH = Path(__file__).resolve().parent / "baseline.json"
# By how much a ratio may be worse before it is told of.
TOLERANCE = 0.2


class Worse(NamedTuple):
    """A figure whose ratio is worse than before, and the share by which it is."""

    figure: str
    before: float
    now: float
    share: float

    def __str__(self) -> str:
        figure = self.figure.strip()
        return (
            f"{figure}: {readable(self.now)} × instead of {readable(self.before)} ×, {self.share:.0%} worse"
        )


def worse(rows: Iterable[Row], ratios: dict[str, float]) -> list[Worse]:
    """Return what is worse than in the baseline by more than the tolerance."""
    found = [
        Worse(row.figure, before, row.ratio, _share(row, before, row.ratio))
        for row in rows
        if row.ratio and (before := ratios.get(row.figure))
    ]
    return [each for each in found if each.share > TOLERANCE]


def _share(row: Row, before: float, now: float) -> float:
    """Return how much more it takes than before; of what shall be high, how much more it would have to be."""
    return (before / now if row.more_is_better else now / before) - 1


def load() -> dict[str, float]:
    """Return the ratios of the baseline by figure; none where there is no baseline."""
    ratios: dict[str, float] = orjson.loads(PATH.read_bytes())["ratios"] if PATH.exists() else {}
    return ratios


def save(rows: Iterable[Row], facts: dict[str, Any]) -> None:
    """Write the ratios down; those of figures that were not measured stay."""
    ratios = load() | {row.figure: round(row.ratio, 4) for row in rows if row.ratio}
    PATH.write_bytes(orjson.dumps({"machine": facts, "ratios": ratios}, option=orjson.OPT_INDENT_2) + b"\n")
