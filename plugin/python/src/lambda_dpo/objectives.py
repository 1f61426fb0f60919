"""The objectives: their words, and what each of them needs and has by default.

Their losses are computed by the library (`loss.py`); equations are in docs/method.md, "Objectives".
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

from . import _abi
from .errors import ConfigError

LossType = Literal["listwise", "plackett_luce", "sigmoid", "hinge", "ipo", "simpo", "orpo"]
Reduction = Literal["sum", "mean"]

LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)

#: A β is reported if it is this many times below or above what is usual.
_FAR_OUTSIDE = 10


@dataclass(frozen=True)
class Objective:
    """What an objective needs.

    Attributes:
        loss_type: its word.
        has_reference: whether the loss depends on log-probs under a reference policy.
        reductions: the reductions for which it is defined; the first is its default.
    """

    loss_type: LossType
    has_reference: bool = True
    reductions: tuple[Reduction, ...] = ("sum", "mean")

    @property
    def code(self) -> int:
        """Its number in the C ABI."""
        return _abi.OBJECTIVES[self.loss_type]

    @property
    def default_reduction(self) -> Reduction:
        """What s is, unless the options say otherwise."""
        return self.reductions[0]

    def gamma(self, simpo_gamma: float | None) -> float:
        """γ of `simpo`: 0.5 if it is None; the other objectives have none."""
        if simpo_gamma is None:
            return 0.5 if self.loss_type == "simpo" else 0.0
        return simpo_gamma

    def usual_betas(self, reduction: Reduction) -> tuple[float, float]:
        """The range of β that publications and trainers use."""
        if self.loss_type == "ipo":
            return 0.01, 1.0
        if self.loss_type == "orpo":
            return 0.05, 1.0
        if self.loss_type == "simpo":
            return 2.0, 10.0
        return (0.01, 0.5) if reduction == "sum" else (0.1, 10.0)

    def beta_notice(self, beta: float, reduction: Reduction) -> str | None:
        """A sentence about a β that is far from what is usual."""
        low, high = self.usual_betas(reduction)
        if low / _FAR_OUTSIDE <= beta <= high * _FAR_OUTSIDE:
            return None
        return (
            f"beta = {beta} is far outside of {low} to {high}, which is usual for loss_type = {self.loss_type!r} with "
            f"reduction = {reduction!r}."
        )


_OBJECTIVES: dict[str, Objective] = {
    "ipo": Objective("ipo", reductions=("mean", "sum")),
    "simpo": Objective("simpo", has_reference=False, reductions=("mean",)),
    "orpo": Objective("orpo", has_reference=False, reductions=("mean",)),
}


def objective(loss_type: str) -> Objective:
    """Returns the objective of a word.

    Raises:
        ConfigError: If there is none; the message names the closest one.
    """
    for known in LOSS_TYPES:
        if loss_type == known:
            return _OBJECTIVES.get(known, Objective(known))
    near = difflib.get_close_matches(str(loss_type), LOSS_TYPES, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(LOSS_TYPES)}."
    raise ConfigError(f"loss_type is {loss_type!r}, which does not exist: {hint}")
