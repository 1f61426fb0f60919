"""Decides whether what was measured over a long run grows, or only moves up and down.

Two measurements a second apart are alike, so the statistics are not of them but of blocks of minutes, each of which
sees every phase of the run many times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, median, quantiles
from typing import TypeVar

T = TypeVar("T")

# The first quarter of a run fills caches and allocators.
WARM_UP = 0.25
NUM_BLOCKS = 30
# With fewer, nothing can be said: a third of them may be this high by chance.
CHANCE_BLOCKS = 5
FEWEST_BLOCKS = 3 * CHANCE_BLOCKS
# Of the limits of a slope.
CONFIDENCE = 0.99
# Blocks that are this much alike tell no more than a tenth of their number would.
_MOST_AUTOCORRELATION = 0.82


@dataclass(frozen=True)
class Trend:
    """How much a series changes in an hour: the slope, and between which limits it lies with a confidence of 99 %."""

    slope: float
    low: float
    high: float


def blocks(samples: Sequence[T], num_blocks: int = NUM_BLOCKS, warm_up: float = WARM_UP) -> list[Sequence[T]]:
    """The samples after the warm-up, in blocks of equal length."""
    kept = samples[int(len(samples) * warm_up) :]
    edges = [len(kept) * number // num_blocks for number in range(num_blocks + 1)]
    return [kept[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def trend(values: Sequence[float], hours: float) -> Trend:
    """The slope of values that are equally far apart and span `hours`, by Theil and Sen: the median of the slopes of
    all pairs, on which outliers have no weight.

    # Numerics

    The limits are Sen's, from the variance of Kendall's S without ties. What blocks have in common with their
    neighbours, once the slope is taken out, makes them wider, as if there were fewer of them: by (1 + r) / (1 − r),
    where r is the autocorrelation.
    """
    num = len(values)
    step = hours / num
    pairs = combinations(range(num), 2)
    slopes = sorted((values[right] - values[left]) / ((right - left) * step) for left, right in pairs)
    slope = median(slopes)
    alike = _autocorrelation([value - slope * step * at for at, value in enumerate(values)])
    alike = min(max(0.0, alike), _MOST_AUTOCORRELATION)
    variance = num * (num - 1) * (2 * num + 5) / 18 * (1 + alike) / (1 - alike)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(variance)
    at_low, at_high = math.floor((len(slopes) - reach) / 2), math.ceil((len(slopes) + reach) / 2)
    low = slopes[at_low] if at_low >= 0 else -math.inf
    high = slopes[at_high] if at_high < len(slopes) else math.inf
    return Trend(slope, low, high)


def _autocorrelation(values: Sequence[float]) -> float:
    """Of values and their successors."""
    mean = sum(values) / len(values)
    around = [value - mean for value in values]
    square = sum(value * value for value in around)
    return sum(one * next_ for one, next_ in zip(around, around[1:], strict=False)) / square if square else 0.0


def rise(values: Sequence[float]) -> float:
    """How much the last third of the values lies above the first, by their medians."""
    first, last = _thirds(values)
    return median(last) - median(first)


def _thirds(values: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """The first and the last third."""
    third = len(values) // 3
    return values[:third], values[-third:]


def grows(values: Sequence[float], hours: float, negligible: float) -> str | None:
    """Says how much values grow that are equally far apart and span `hours`; None if they do not.

    They grow if their trend is above zero, with a confidence of 99 % and by more than the share `negligible` of their
    median in an hour; or if the last third lies above the first by more than twice that share and hardly overlaps it,
    as after a few large steps, of which a trend cannot tell whether they go on.
    """
    level = median(values)
    found = trend(values, hours)
    if found.low > 0 and found.slope > negligible * level:
        return f"by {found.slope / level:.1%} an hour ({found.low / level:.1%} to {found.high / level:.1%})"
    (_, _, first), (last, _, _) = (quantiles(some) for some in _thirds(values))
    if (share := rise(values) / level) > 2 * negligible and last > first:
        return f"by {share:.1%} from the first third to the last"
    return None


def count_grows(counts: Sequence[Sequence[int]], tolerance: float = 0.0) -> str | None:
    """Says how much the counts in blocks grow, such as those of open files; None if they do not.

    What a block has least is there all the time: the last third of the blocks must not have more of it than the first,
    but for the share `tolerance`. What a block has most is there for a moment, which may be seen or missed: of the
    blocks in the last third, it must not be above everything before in five or more. If nothing changes, that
    happens once in 3⁵ times.
    """
    first, last = (min(map(min, some)) for some in _thirds(counts))
    if last > first * (1 + tolerance):
        return f"from {first:,} to {last:,} that are there all the time"
    _, late = _thirds(counts)
    before = max(map(max, counts[: -len(late)]))
    higher = [most for most in map(max, late) if most > before * (1 + tolerance)]
    if len(higher) >= CHANCE_BLOCKS:
        return f"from at most {before:,} to {max(higher):,}, in {len(higher)} of the last {len(late)} blocks"
    return None
