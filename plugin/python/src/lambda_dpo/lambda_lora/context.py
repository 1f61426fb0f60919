"""The λ that an adapter's layers see, and the weights s(λ) of its columns."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError


class Shown:
    """A λ, and s(λ) on each device and in each dtype that asks for it."""

    def __init__(self, weights: Tensor) -> None:
        """`weights`: `[M]` of a whole batch, `[rows, M]`, or `[rows, T, M]`."""
        # [rows, T, M], of which rows and T may be 1
        self.weights = {1: weights[None, None], 2: weights.unsqueeze(-2), 3: weights}[weights.dim()]
        self._columns: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows; 1 is for a whole batch."""
        return self.weights.shape[0]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a row; 1 is for all."""
        return self.weights.shape[1]

    def columns(self, ranks: tuple[int, int], like: Tensor, copies: int = 1) -> Tensor:
        """s(λ) `[rows · copies, T, R]` (rows and T may be 1), with the device and dtype of `like`.

        `ranks` are those of the shared part and of each dimension's.
        """
        key = (like.device, like.dtype, copies)
        if key not in self._columns:
            weights = self.weights.to(like.dtype).to(like.device).repeat_interleave(copies, 0)
            shared = weights.new_ones(*weights.shape[:2], ranks[0])
            self._columns[key] = torch.cat([shared, weights.repeat_interleave(ranks[1], 2)], 2)
        return self._columns[key]


class LambdaContext:
    """State that the layers of one adapter share: the λ of the forwards to come.

    It is neither a parameter nor a buffer, so engines that shard or save a model leave it alone.

    Attributes:
        dimensions: names of the M dimensions.
        ranks: rank of the shared part, and of each dimension's.
        shown: the λ; None: it has not been set, and is uniform.
        generating: number of rows of the batch that is being generated from, whose rows `generate` may have repeated.
    """

    def __init__(self, dimensions: Sequence[str], ranks: tuple[int, int]) -> None:
        self.dimensions = list(dimensions)
        self.ranks = ranks
        self.shown: Shown | None = None
        self.generating: int | None = None
        self._uniform = Shown(self.uniform())
        self._has_warned = False

    def uniform(self) -> Tensor:
        """λ `[M]` with equal weights."""
        return torch.full((len(self.dimensions),), 1 / len(self.dimensions), dtype=torch.float64)

    @contextlib.contextmanager
    def showing(self, shown: Shown | None) -> Iterator[None]:
        """Context with another λ."""
        before, self.shown = self.shown, shown
        try:
            yield
        finally:
            self.shown = before

    def current(self) -> Shown:
        """The λ that is set; else the uniform one, of which a warning tells once."""
        if self.shown is not None:
            return self.shown
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"λ is not set, so all dimensions ({', '.join(self.dimensions)}) have the same weight: set it with "
                "model.set_lambda(…).",
                stacklevel=2,
            )
        return self._uniform

    def columns(self, reduced: Tensor) -> Tensor:
        """s(λ) for the low-rank activations `[rows, T, R]` of a layer, which it is broadcast with.

        Raises:
            ConfigError: If λ was set for another number of rows or tokens.
        """
        shown = self.current()
        if shown.num_rows == shown.num_tokens == 1:
            return shown.columns(self.ranks, reduced)[0, 0]  # [R]
        if reduced.dim() != 3:
            raise ConfigError(
                f"λ is set for each row, but a layer sees {list(reduced.shape)[:-1]} tokens without rows: set one λ for "
                "the whole batch."
            )
        num_rows, num_tokens = reduced.shape[:2]
        if shown.num_tokens not in (1, num_tokens):
            raise ConfigError(
                f"λ is set for {shown.num_tokens} tokens a row, but the batch has {num_tokens}: set one λ for each row, "
                "or for each of its tokens."
            )
        copies, others = 1, shown.num_rows not in (1, num_rows)
        if others and self.generating == shown.num_rows:
            # Beams and several answers to a prompt: each row is repeated, the copies beside each other.
            copies, others = num_rows // shown.num_rows, num_rows % shown.num_rows != 0
        if others:
            raise other_rows(shown.num_rows, num_rows)
        return shown.columns(self.ranks, reduced, copies)

    def single(self, like: Tensor) -> Tensor:
        """s(λ) `[R]` of the one λ that is set.

        Raises:
            ConfigError: If there are several.
        """
        shown = self.current()
        if shown.num_rows * shown.num_tokens > 1:
            raise ConfigError(
                f"A merged adapter has one λ, but λ is set for {shown.num_rows} rows: set one λ for the whole batch "
                "first."
            )
        return shown.columns(self.ranks, like)[0, 0]


def other_rows(num_set: int, num_rows: int) -> ConfigError:
    """The error that λ was set for another number of rows."""
    return ConfigError(
        f"λ is set for {num_set} rows, but the batch has {num_rows}: set one λ for the whole batch, or one for each "
        "row."
    )
