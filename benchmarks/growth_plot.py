"""A drawing of how costs grow, as SVG: panels of one line each, readable on light and on dark paper."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.results import FOLDER, readable

PLOT = FOLDER / "growth.svg"
# Where the documentation shows it; only what is in static/ is shown on its pages.
KEPT = Path(__file__).resolve().parent.parent / "static/img/growth.svg"
WIDTH, HEIGHT, COLUMNS = 430, 250, 2
LEFT, RIGHT, TOP, BOTTOM = 40, 400, 64, 200
STYLE = """
    .paper { fill: #fff }
    .title { fill: #1f2333; font-weight: 600 }
    .note, .tick { fill: #4a4f66; font-size: 12px }
    .value { fill: #1f2333; font-size: 12px }
    .axis { stroke: #b9bdcc; stroke-width: 1 }
    .line { stroke: #3f51b5; stroke-width: 2; fill: none }
    .dot { fill: #3f51b5 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #171a24 }
      .title, .value { fill: #eceef5 }
      .note, .tick { fill: #b4b9cb }
      .axis { stroke: #4a4f66 }
      .line { stroke: #9fa8ff }
      .dot { fill: #9fa8ff }
    }
"""


class Panel(NamedTuple):
    """One line: what it costs, by how many there are."""

    title: str
    unit: str
    along: str
    points: Sequence[tuple[int, float]]


def draw(panels: Sequence[Panel]) -> str:
    """Return the drawing. The ways along are logarithmic, the costs begin at 0."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    parts = [
        _panel(panel, number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT)
        for number, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="14">\n  <title>How costs grow</title>\n'
        f"  <style>{STYLE}  </style>\n"
        f'  <rect class="paper" width="{width}" height="{height}" rx="10"/>\n' + "".join(parts) + "</svg>\n"
    )


def _panel(panel: Panel, x: int, y: int) -> str:
    places = [_place(panel.points, point) for point in panel.points]
    line = " ".join(f"{at:.1f},{up:.1f}" for at, up in places)
    lines = [
        f'<g transform="translate({x} {y})">',
        f'  <text class="title" x="{LEFT - 16}" y="30">{escape(panel.title)}</text>',
        f'  <text class="note" x="{LEFT - 16}" y="48">{escape(panel.unit)}</text>',
        f'  <path class="axis" d="M{LEFT - 16} {BOTTOM}H{RIGHT + 16}"/>',
        f'  <polyline class="line" points="{line}"/>',
    ]
    for (count, cost), (at, up) in zip(panel.points, places, strict=True):
        lines += [
            f'  <circle class="dot" cx="{at:.1f}" cy="{up:.1f}" r="4"/>',
            f'  <text class="value" x="{at:.1f}" y="{up - 10:.1f}" text-anchor="middle">{readable(cost)}</text>',
            f'  <text class="tick" x="{at:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{count:,}</text>',
        ]
    middle = (LEFT + RIGHT) / 2
    lines.append(
        f'  <text class="note" x="{middle}" y="{BOTTOM + 38}" text-anchor="middle">{escape(panel.along)}</text>'
    )
    return "".join(f"  {each}\n" for each in [*lines, "</g>"])


def _place(points: Sequence[tuple[int, float]], point: tuple[int, float]) -> tuple[float, float]:
    first, last = math.log(points[0][0]), math.log(points[-1][0])
    highest = max(cost for _, cost in points) or 1
    along = (math.log(point[0]) - first) / (last - first) if last > first else 0.5
    return LEFT + along * (RIGHT - LEFT), BOTTOM - point[1] / highest * (BOTTOM - TOP - 20)


def write(panels: Sequence[Panel]) -> None:
    FOLDER.mkdir(exist_ok=True)
    PLOT.write_text(draw(panels))


def keep() -> None:
    """Let the documentation show the newest drawing, if there is one."""
    if PLOT.exists():
        shutil.copy(PLOT, KEPT)
