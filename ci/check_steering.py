"""Checks a control report: λ must move every dimension nearly as far as training for only that dimension does.

    python3 ci/check_steering.py runs/steer/report runs/steer/soup

REPORT is the λ-adapter's, SOUP that of the specialists' weighted mix, whose corners are the specialists. Fails if

- a dimension's mean score or expected rating does not rise with every step of its own λ,
- the range of a mean score (its value at λ_k = 1 minus that at 0) is below half its specialist's, or the mean range is
  below 80 % of the specialists', or
- the mean range is more than 0.05 below the soup's, twice the spread of their difference between samplings.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

SOUP_TOLERANCE = 0.05


def curve(report: dict, dimension: str, figures: str, figure: str) -> list[float]:
    """Returns a figure of a dimension at each value of its own λ."""
    points = report["curves"][report["dimensions"].index(dimension)]
    return [report["points"][point][figures][f"{figure}/{dimension}"] for point in points]


def reach(report: dict, dimension: str) -> float:
    """Returns how far the dimension's own λ moves its mean score."""
    scores = curve(report, dimension, "generated", "score")
    return scores[-1] - scores[0]


def specialist_reach(soup: dict, dimension: str) -> float:
    """Returns a specialist's mean score in its dimension, minus the mean of the other specialists' there."""
    corners = {name: points[-1] for name, points in zip(soup["dimensions"], soup["curves"], strict=True)}
    scores = {name: soup["points"][corner]["generated"][f"score/{dimension}"] for name, corner in corners.items()}
    return scores[dimension] - mean(score for name, score in scores.items() if name != dimension)


def broken_promises(report: dict, soup: dict) -> list[str]:
    """Returns one sentence per broken promise."""
    broken = []
    dimensions = report["dimensions"]
    for dimension in dimensions:
        for figures, figure in (("generated", "score"), ("held_out", "expected_rating")):
            values = curve(report, dimension, figures, figure)
            if any(later <= earlier for earlier, later in zip(values, values[1:])):
                broken.append(f"{figure}/{dimension} does not rise throughout: {values}")
    shares = {name: reach(report, name) / specialist_reach(soup, name) for name in dimensions}
    broken += [f"{name} reaches {share:.0%} of its specialist's range" for name, share in shares.items() if share < 0.5]
    ours, specialists, mixed = (
        mean(measured(of, name) for name in dimensions)
        for measured, of in ((reach, report), (specialist_reach, soup), (reach, soup))
    )
    if ours < 0.8 * specialists:
        broken.append(f"the mean range {ours:.3f} is below 80 % of the specialists' {specialists:.3f}")
    if ours < mixed - SOUP_TOLERANCE:
        broken.append(f"the mean range {ours:.3f} is below the soup's {mixed:.3f}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", metavar="REPORT", type=Path)
    parser.add_argument("soup", metavar="SOUP", type=Path)
    args = parser.parse_args()
    broken = broken_promises(*(json.loads((folder / "steer.json").read_text()) for folder in (args.report, args.soup)))
    for sentence in broken:
        print(f"{args.report}: {sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
