"""Draws control.svg, the picture in README.md, from the reports of `make steer-demo`.

    python3 docs/steering/plot.py runs/steer

One panel per dimension: the mean score of generated text over the dimension's own λ, the rest of λ shared equally. The
λ-adapter is one training run. A specialist is a LoRA trained for that dimension only: the corner of the soup. Needs
only the standard library.
"""

import argparse
import json
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, GAP = 44, 12, 18
TOP, BOTTOM = 90, 46
BLUE, RED, GREY = "#1f77b4", "#c0392b", "#8a8a8a"
TEXT, GRID = "#222222", "#e4e4e4"
SCORES = (2, 5)  # The part of the scale from 1 to 5 that the curves need.


def score(point: dict, dimension: str) -> float:
    """Mean score of the text generated at a point of the grid."""
    return point["generated"][f"score/{dimension}"]


def curve(report: dict, dimension: str) -> list[tuple[float, float]]:
    """(λ of the dimension, its mean score) from λ = 0 to 1."""
    k = report["dimensions"].index(dimension)
    points = [report["points"][number] for number in report["curves"][k]]
    return [(point["lambda"][k], score(point, dimension)) for point in points]


class Panel:
    """The axes of one dimension."""

    def __init__(self, left: float, width: float):
        self.left, self.width = left, width

    def x(self, weight: float) -> float:
        return self.left + 12 + weight * (self.width - 24)

    def y(self, value: float) -> float:
        low, high = SCORES
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def frame(self, dimension: str, has_labels: bool) -> list[str]:
        """Grid, ticks and title."""
        parts = []
        for value in range(SCORES[0], SCORES[1] + 1):
            y = self.y(value)
            parts.append(line(self.left, y, self.left + self.width, y, GRID))
            if has_labels:
                parts.append(text(self.left - 8, y + 4, str(value), anchor="end"))
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


def legend() -> list[str]:
    """The three marks, above the panels."""
    y = 46
    adapter, specialist, unconditioned = LEFT, LEFT + 262, LEFT + 518
    return [
        text(LEFT, 20, "Mean score of generated text (1 to 5) over λ", anchor="start", size=15, weight="bold"),
        line(adapter, y - 4, adapter + 28, y - 4, BLUE, ' stroke-width="2.5"'),
        dot(adapter + 14, y - 4),
        text(adapter + 36, y, "one λ-adapter, λ set at inference", anchor="start"),
        diamond(specialist + 8, y - 4),
        text(specialist + 22, y, "a LoRA for this dimension only", anchor="start"),
        line(unconditioned, y - 4, unconditioned + 28, y - 4, GREY, ' stroke-width="2" stroke-dasharray="5 4"'),
        text(unconditioned + 36, y, "LoRA on random λ that it never sees", anchor="start"),
    ]


def picture(adapter: dict, soup: dict, unconditioned: dict) -> str:
    """The SVG."""
    dimensions = adapter["dimensions"]
    width = (WIDTH - LEFT - RIGHT - GAP * (len(dimensions) - 1)) / len(dimensions)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *legend(),
    ]
    for number, dimension in enumerate(dimensions):
        panel = Panel(LEFT + number * (width + GAP), width)
        parts += panel.frame(dimension, has_labels=number == 0)
        level = panel.y(score(unconditioned["points"][0], dimension))
        parts.append(line(panel.x(0), level, panel.x(1), level, GREY, ' stroke-width="2" stroke-dasharray="5 4"'))
        points = [(panel.x(weight), panel.y(value)) for weight, value in curve(adapter, dimension)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="2.5"/>')
        parts += [dot(x, y) for x, y in points]
        parts.append(diamond(panel.x(1), panel.y(curve(soup, dimension)[-1][1])))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder that `make steer-demo` writes, runs/steer")
    folder = parser.parse_args().run
    names = ("report", "soup", "unconditioned-report")
    reports = [json.loads((folder / name / "steer.json").read_text()) for name in names]
    Path(__file__).with_name("control.svg").write_text(picture(*reports))


if __name__ == "__main__":
    main()
