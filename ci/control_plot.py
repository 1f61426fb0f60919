"""Draws what λ controls as an SVG, one panel per dimension, from reports of `lambda-dpo steer`.

    python3 ci/control_plot.py LAMBDA_ADAPTER SOUP UNCONDITIONED PICTURE.svg

Each panel has the mean score of generated text over the dimension's own λ, the rest of λ shared equally. The λ-adapter is
one training run. A specialist is a LoRA trained for that dimension only: the corner of the soup. Needs only the standard
library.
"""

import argparse
import json
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, GAP = 44, 12, 18
TOP, BOTTOM = 90, 46
BLUE, RED, GREY = "#1f77b4", "#c0392b", "#8a8a8a"
TEXT, GRID = "#222222", "#e4e4e4"
# Figures of a report: the part of a point that has them, and what they are.
FIGURES = {
    "score": ("generated", "Mean score of generated text"),
    "expected_rating": ("held_out", "Expected rating of held-out responses"),
}


def value(point: dict, dimension: str, figure: str) -> float:
    """A figure of a dimension at a point of the grid."""
    return point[FIGURES[figure][0]][f"{figure}/{dimension}"]


def curve(report: dict, dimension: str, figure: str) -> list[tuple[float, float]]:
    """(λ of the dimension, the figure) from λ = 0 to 1."""
    k = report["dimensions"].index(dimension)
    points = [report["points"][number] for number in report["curves"][k]]
    return [(point["lambda"][k], value(point, dimension, figure)) for point in points]


class Scale:
    """The part of the scale that all panels show: whole steps around the values, of 1 or of ½ where they lie closer."""

    def __init__(self, values: Iterable[float]):
        values = list(values)
        self.step = 1.0 if max(values) - min(values) > 1.5 else 0.5
        self.low = math.floor(min(values) / self.step) * self.step
        self.high = max(math.ceil(max(values) / self.step) * self.step, self.low + self.step)

    def ticks(self) -> list[float]:
        return [self.low + number * self.step for number in range(round((self.high - self.low) / self.step) + 1)]


class Panel:
    """The axes of one dimension."""

    def __init__(self, left: float, width: float, scale: Scale):
        self.left, self.width, self.scale = left, width, scale

    def x(self, weight: float) -> float:
        return self.left + 12 + weight * (self.width - 24)

    def y(self, value: float) -> float:
        share = (value - self.scale.low) / (self.scale.high - self.scale.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def frame(self, dimension: str, has_labels: bool) -> list[str]:
        """Grid, ticks and title."""
        parts = []
        for tick in self.scale.ticks():
            y = self.y(tick)
            parts.append(line(self.left, y, self.left + self.width, y, GRID))
            if has_labels:
                parts.append(text(self.left - 8, y + 4, f"{tick:g}", anchor="end"))
        for weight, label in [(0, "0"), (0.25, "¼"), (0.5, "½"), (0.75, "¾"), (1, "1")]:
            parts.append(text(self.x(weight), HEIGHT - BOTTOM + 18, label))
        middle = self.left + self.width / 2
        parts.append(text(middle, TOP - 12, dimension.replace("_", " "), size=14, weight="bold"))
        parts.append(text(middle, HEIGHT - 8, f"λ of {dimension.replace('_', ' ')}"))
        return parts


def line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{extra}/>'


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{TEXT}">{escape(words)}</text>'
    )


def dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{BLUE}"/>'


def diamond(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" fill="none" stroke="{RED}" stroke-width="2"/>'


def legend(title: str) -> list[str]:
    """The title and the three marks, above the panels."""
    y = 46
    adapter, specialist, unconditioned = LEFT, LEFT + 262, LEFT + 518
    return [
        text(LEFT, 20, title, anchor="start", size=15, weight="bold"),
        line(adapter, y - 4, adapter + 28, y - 4, BLUE, ' stroke-width="2.5"'),
        dot(adapter + 14, y - 4),
        text(adapter + 36, y, "one λ-adapter, λ set at inference", anchor="start"),
        diamond(specialist + 8, y - 4),
        text(specialist + 22, y, "a LoRA for this dimension only", anchor="start"),
        line(unconditioned, y - 4, unconditioned + 28, y - 4, GREY, ' stroke-width="2" stroke-dasharray="5 4"'),
        text(unconditioned + 36, y, "LoRA on random λ that it never sees", anchor="start"),
    ]


def picture(adapter: dict, soup: dict, unconditioned: dict, figure: str = "score") -> str:
    """The SVG of a figure."""
    dimensions = adapter["dimensions"]
    curves = {name: curve(adapter, name, figure) for name in dimensions}
    corners = {name: curve(soup, name, figure)[-1][1] for name in dimensions}
    levels = {name: value(unconditioned["points"][0], name, figure) for name in dimensions}
    shown = [*corners.values(), *levels.values(), *(height for points in curves.values() for _, height in points)]
    scale = Scale(shown)
    width = (WIDTH - LEFT - RIGHT - GAP * (len(dimensions) - 1)) / len(dimensions)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *legend(f"{FIGURES[figure][1]} (1 to 5) over λ"),
    ]
    for number, dimension in enumerate(dimensions):
        panel = Panel(LEFT + number * (width + GAP), width, scale)
        parts += panel.frame(dimension, has_labels=number == 0)
        level = panel.y(levels[dimension])
        parts.append(line(panel.x(0), level, panel.x(1), level, GREY, ' stroke-width="2" stroke-dasharray="5 4"'))
        points = [(panel.x(weight), panel.y(height)) for weight, height in curves[dimension]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="2.5"/>')
        parts += [dot(x, y) for x, y in points]
        parts.append(diamond(panel.x(1), panel.y(corners[dimension])))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("adapter", "soup", "unconditioned"):
        parser.add_argument(name, type=Path, help="a folder that `lambda-dpo steer` wrote")
    parser.add_argument("out", type=Path, help="the picture")
    given = parser.parse_args()
    folders = (given.adapter, given.soup, given.unconditioned)
    reports = [json.loads((folder / "steer.json").read_text(encoding="utf-8")) for folder in folders]
    given.out.write_text(picture(*reports), encoding="utf-8")


if __name__ == "__main__":
    main()
