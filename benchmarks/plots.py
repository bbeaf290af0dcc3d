"""Draw the results in docs/benchmarks/*.json: small SVG line plots, both axes logarithmic.

One plot for each group of rows that a benchmark named. They need only text, and are readable on light and dark
pages. Each line has its name at its end; names that would overlap are moved apart.
"""

import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path
from re import sub
from statistics import median
from typing import Any

from benchmarks.common import ROOT

FOLDER = ROOT / "docs" / "benchmarks"
WIDTH, HEIGHT = 830, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 340, 44, 52
APART = 15.0
"""Pixels between two lines' names."""

LIGHT = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#57606a")
DARK = ("#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#f778ba", "#8b949e")


def _coloured(colours: tuple[str, ...]) -> str:
    return "\n".join(f".s{number} {{ color: {colour} }}" for number, colour in enumerate(colours))


STYLE = f"""
svg {{ background: #fff; color: #24292f; font: 12px system-ui, sans-serif }}
text, circle {{ fill: currentColor }}
.title {{ font-size: 15px; font-weight: 600 }}
.grid {{ stroke: currentColor; stroke-opacity: .15 }}
.line {{ fill: none; stroke: currentColor; stroke-width: 2 }}
{_coloured(LIGHT)}
@media (prefers-color-scheme: dark) {{
svg {{ background: #0d1117; color: #e6edf3 }}
{_coloured(DARK)}
}}
"""
UNITS = {"s": "seconds", "/s": "a second", "ms/rotation": "ms a rotation", "rotations/s": "rotations a second"}


@dataclass(frozen=True, slots=True)
class Line:
    """One row, by its medians."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Logarithmic, from one pixel to another."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel."""
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.begin + (self.end - self.begin) * share

    def decades(self) -> list[float]:
        """1, 2 and 5 times the powers of ten in it; the powers alone where that would be too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(powers) < 5 else (1,)
        marks = [step * 10.0**power for power in powers for step in steps]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def draw(title: str, x_label: str, y_label: str, lines: list[Line]) -> str:
    """The plot, as the text of an SVG file."""
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    across = Axis(xs[0], max(xs[-1], xs[0] * 1.01), LEFT, WIDTH - RIGHT)
    up = Axis(min(ys) / 1.4, max(ys) * 1.4, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    for mark in up.decades():
        y = up(mark)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for x in xs:
        parts.append(f'<path class="grid" d="M{across(x):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,.0f}</text>')
    names_at = apart([up(line.points[-1][1]) for line in lines])
    for number, (line, name_at) in enumerate(zip(lines, names_at, strict=True)):
        places = [(across(x), up(y)) for x, y in line.points]
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<g class="s{number % len(LIGHT)}"><path class="line" d="M{way}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        end = WIDTH - RIGHT + 12
        parts.append(f'<text x="{end}" y="{name_at + 4:.1f}">{escape(line.name)}</text></g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def apart(places: list[float]) -> list[float]:
    """The same places, moved until no two are nearer than names can be, and all on the plot."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved, lowest = list(places), TOP - APART
    for index in order:
        lowest = moved[index] = max(places[index], lowest + APART)
    highest = HEIGHT - BOTTOM + APART
    for index in reversed(order):
        highest = moved[index] = min(moved[index], highest - APART)
    return moved


def plots(results: dict[str, Any]) -> dict[str, str]:
    """All plots of one benchmark, by title."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results["rows"]:
        if row["plot"]:
            grouped[row["plot"]].append(row)
    drawn = {}
    for title, rows in grouped.items():
        lines = []
        for row in rows:
            medians = [(float(x), median(values)) for x, values in row["points"].items()]
            exponent = f" (power {row['exponent']:.2f})" if row["exponent"] is not None else ""
            if points := sorted(point for point in medians if point[1] > 0):
                lines.append(Line(row["name"].rpartition(": ")[2] + exponent, points))
        if lines:
            drawn[title] = draw(title, results["x"], UNITS.get(rows[0]["unit"], rows[0]["unit"]), lines)
    return drawn


def main() -> None:
    """Draw those of all files, or of the given ones, beside them."""
    for file in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.json")):
        for title, text in plots(json.loads(file.read_text())).items():
            name = sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            (file.parent / f"{name}.svg").write_text(text)
            print(file.parent / f"{name}.svg")


if __name__ == "__main__":
    main()
