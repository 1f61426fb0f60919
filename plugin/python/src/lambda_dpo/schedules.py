"""λ schedules: each draw depends only on the seed and either the epoch and record index of the prompt, or the step."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _abi, _native
from .errors import ConfigError

SCHEDULES = ("dirichlet", "uniform_normalized", "gaussian", "unimodal", "fixed", "table")


class LambdaSchedule:
    """Draws λ over M named dimensions.

    Args:
        dimensions: names, in order.
        kind: one of `SCHEDULES`.
        alpha: parameter of the Dirichlet distribution; 1 is uniform on the simplex.
        normalization: for `gaussian`: "softmax" or "abs".
        dimension: for `unimodal`: a name, or "cycle" for all in turn.
        weights: for `fixed`: weights by name; those that are left out are 0.
        table: for `table`: rows `{"weights": {name: weight}, "probability": p}`.

    Raises:
        ConfigError: If a name is not one of the dimensions, or an argument that `kind` needs is missing.
        InvalidInputError: If weights do not sum to 1, or another value is invalid.
    """

    def __init__(
        self,
        dimensions: Sequence[str],
        kind: str = "dirichlet",
        *,
        alpha: float = 1.0,
        normalization: str = "softmax",
        dimension: str = "cycle",
        weights: Mapping[str, float] | None = None,
        table: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.dimensions = list(dimensions)
        self.kind = kind
        self._alpha = alpha
        self._normalization = normalization
        self._dimension = dimension
        self._weights = weights
        self._table = table
        options, self._kept = self._options()
        handle = _native.make("schedule_new", "schedule_free", options)
        assert handle is not None
        self._handle = handle

    def __reduce__(self) -> Any:
        keywords = {
            "alpha": self._alpha,
            "normalization": self._normalization,
            "dimension": self._dimension,
            "weights": self._weights,
            "table": self._table,
        }
        return _remade, (self.dimensions, self.kind, keywords)

    def draw(self, seed: int, epoch: int, records: Sequence[int]) -> Tensor:
        """Draws λ `[len(records), M]` float64 of prompts; each row is a function of (seed, epoch, record index)."""
        drawn = torch.empty(len(records), len(self.dimensions), dtype=torch.float64)
        for row, record in zip(drawn, records, strict=True):
            pointer = ctypes.cast(row.data_ptr(), ctypes.POINTER(ctypes.c_double))
            _native.call("schedule_draw_instance", self._handle.raw, seed, epoch, record, pointer)
        return drawn

    def draw_step(self, seed: int, global_step: int) -> Tensor:
        """Draws λ `[M]` float64 of an optimiser step; it is a function of (seed, step)."""
        drawn = torch.empty(len(self.dimensions), dtype=torch.float64)
        pointer = ctypes.cast(drawn.data_ptr(), ctypes.POINTER(ctypes.c_double))
        _native.call("schedule_draw_step", self._handle.raw, seed, global_step, pointer)
        return drawn

    def evaluation(self) -> Tensor:
        """λ `[M]` float64 for evaluation: the fixed λ of the schedule `fixed`, else uniform."""
        if self.kind == "fixed":
            return self.draw_step(0, 0)
        return torch.full((len(self.dimensions),), 1 / len(self.dimensions), dtype=torch.float64)

    def _options(self) -> tuple[_abi.ScheduleOptions, list[Any]]:
        kinds = {
            "dirichlet": _abi.SCHEDULE_DIRICHLET,
            "uniform_normalized": _abi.SCHEDULE_UNIFORM_NORMALIZED,
            "unimodal": _abi.SCHEDULE_UNIMODAL,
            "fixed": _abi.SCHEDULE_FIXED,
            "table": _abi.SCHEDULE_TABLE,
        }
        if self.kind not in SCHEDULES:
            raise ConfigError(f"The λ schedule is {self.kind!r}, but it must be one of {', '.join(SCHEDULES)}.")
        options = _abi.ScheduleOptions(num_dimensions=len(self.dimensions), alpha=self._alpha)
        kept: list[Any] = []
        if self.kind == "gaussian":
            gaussians = {"softmax": _abi.SCHEDULE_GAUSSIAN, "abs": _abi.SCHEDULE_GAUSSIAN_ABS}
            if self._normalization not in gaussians:
                raise ConfigError(f'The normalization of λ is {self._normalization!r}, but it must be "softmax" or "abs".')
            options.kind = gaussians[self._normalization]
            return options, kept
        options.kind = kinds[self.kind]
        if self.kind == "unimodal":
            if self._dimension == "cycle":
                options.kind = _abi.SCHEDULE_UNIMODAL_CYCLE
            else:
                options.dimension = self._index(self._dimension)
        if self.kind == "fixed":
            if not self._weights:
                raise ConfigError("The fixed λ schedule needs weights: name a weight for each dimension.")
            kept = [_native.doubles(self._row(self._weights))]
            options.weights, options.num_rows = kept[0], 1
        if self.kind == "table":
            if not self._table:
                raise ConfigError("The λ schedule `table` needs rows, each with weights and a probability.")
            rows = [weight for row in self._table for weight in self._row(row["weights"])]
            kept = [_native.doubles(rows), _native.doubles(row["probability"] for row in self._table)]
            options.weights, options.num_rows, options.probabilities = kept[0], len(self._table), kept[1]
        return options, kept

    def _index(self, name: str) -> int:
        if name not in self.dimensions:
            raise ConfigError(f"λ names the dimension `{name}`, but the dimensions are {', '.join(self.dimensions)}.")
        return self.dimensions.index(name)

    def _row(self, weights: Mapping[str, float]) -> list[float]:
        row = [0.0] * len(self.dimensions)
        for name, weight in weights.items():
            row[self._index(name)] = float(weight)
        return row


def _remade(dimensions: list[str], kind: str, keywords: dict[str, Any]) -> LambdaSchedule:
    return LambdaSchedule(dimensions, kind, **keywords)
