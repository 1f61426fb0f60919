"""λ as people give it: `"honesty=0.5"`, a number by name, or tensors; by the rules of the program's `--lambda`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import ConfigError

#: What the weights may differ from 1 in sum; they are renormalised.
TOLERANCE = 0.001

#: One λ: text as of `--lambda`, or weights by name.
Named: TypeAlias = "str | Mapping[str, float]"

#: One λ for a whole batch, one for each row, or one for each token.
Given: TypeAlias = "Named | Sequence[Named] | Tensor"


def tensor(given: Given, dimensions: Sequence[str]) -> Tensor:
    """Returns λ as float64, `[M]`, `[rows, M]` or `[rows, T, M]`, in the order of `dimensions`.

    Dimensions that a mapping or a text does not name share the rest equally; a tensor has all M weights.

    Raises:
        ConfigError: If a name is no dimension or comes twice, a weight is no number of at least 0, or the weights of a
            λ do not sum to 1.
    """
    if isinstance(given, Tensor):
        return _checked(given, dimensions)
    if isinstance(given, (str, Mapping)):
        return torch.tensor(one(given, dimensions), dtype=torch.float64)
    rows = list(given)
    if not rows or not all(isinstance(row, (str, Mapping)) for row in rows):
        raise ConfigError(
            f"λ is {given!r}, but it must be weights by name, a list with those of each row, or a tensor of weights."
        )
    weights = []
    for index, row in enumerate(rows):
        try:
            weights.append(one(row, dimensions))
        except ConfigError as error:
            raise ConfigError(f"row {index}: {error}") from None
    return torch.tensor(weights, dtype=torch.float64)


def one(given: Named, dimensions: Sequence[str]) -> list[float]:
    """Returns the M weights of one λ.

    Raises:
        ConfigError: As `tensor`.
    """
    weights: dict[str, float] = {}
    for name, weight, shown in _parts(given):
        if name not in dimensions:
            raise ConfigError(f"λ names the dimension `{name}`, but the adapter has {', '.join(dimensions)}")
        if weight is None or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"λ gives `{name}` the weight {shown}: weights must be numbers of at least 0")
        if name in weights:
            raise ConfigError(f"λ names `{name}` twice")
        weights[name] = weight
    total = sum(weights.values())
    num_left = len(dimensions) - len(weights)
    if total - 1 > TOLERANCE or (num_left == 0 and total - 1 < -TOLERANCE):
        raise _not_one(total)
    share = max(1 - total, 0.0) / max(num_left, 1)
    found = [weights.get(name, share) for name in dimensions]
    return [weight / sum(found) for weight in found]


def _parts(given: Named) -> list[tuple[str, float | None, str]]:
    """Names, weights (None: no number) and what messages show of them."""
    if isinstance(given, Mapping):
        return [(name, *_number(weight)) for name, weight in given.items()]
    parts: list[tuple[str, float | None, str]] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        name, has_weight, text = (piece.strip() for piece in part.partition("="))
        if not has_weight:
            raise ConfigError(f"`{part}` in λ is not of the form name=weight, as in honesty=0.5")
        try:
            parts.append((name, float(text), text))
        except ValueError:
            parts.append((name, None, text))
    return parts


def _number(weight: Any) -> tuple[float | None, str]:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        return None, str(weight)
    return number, decimal(number)


def decimal(number: float) -> str:
    """Returns a number as the program writes it: the shortest decimals, without an exponent."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    text = format(Decimal(repr(number)), "f")
    return text.removesuffix(".0")


def _not_one(total: float) -> ConfigError:
    shown = decimal(math.floor(total * 1e6 + 0.5) / 1e6)
    return ConfigError(f"the weights of λ sum to {shown}: they must sum to 1 within {TOLERANCE}")


def _checked(given: Tensor, dimensions: Sequence[str]) -> Tensor:
    if not 1 <= given.dim() <= 3 or given.shape[-1] != len(dimensions) or given.numel() == 0:
        shape = list(given.shape)
        raise ConfigError(
            f"λ has the shape {shape}, but the adapter has {len(dimensions)} dimensions ({', '.join(dimensions)}): "
            f"give [{len(dimensions)}], [rows, {len(dimensions)}] or [rows, tokens, {len(dimensions)}]"
        )
    weights = given.detach().to("cpu", torch.float64)
    for name, column in zip(dimensions, weights.reshape(-1, len(dimensions)).T, strict=True):
        wrong = column[~(torch.isfinite(column) & (column >= 0))]
        if len(wrong):
            shown = decimal(wrong[0].item())
            raise ConfigError(f"λ gives `{name}` the weight {shown}: weights must be numbers of at least 0")
    totals = weights.sum(-1, keepdim=True)
    wrong = totals[(totals - 1).abs() > TOLERANCE]
    if len(wrong):
        raise _not_one(wrong[0].item())
    return weights / totals
