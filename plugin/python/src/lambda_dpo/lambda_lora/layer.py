"""Layers: the matrix B that sees λ, and LoRA layers that merge at a λ.

All LoRA layers of PEFT, quantised or not, compute B(A(dropout(x))) · scaling by calling B as a module, so a B that
scales its input by s(λ) is all that a λ-adapter adds to them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .context import LambdaContext


class LambdaColumns(nn.Linear):
    """Matrix B `[out, R]`, whose columns λ scales: x `[rows, T, R]` → B (s(λ) ⊙ x) `[rows, T, out]`."""

    def __init__(self, plain: nn.Linear, context: LambdaContext) -> None:
        """Takes the weight of `plain`, which PEFT made."""
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        self.context = context

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * self.context.columns(input))


class MergesAtLambda:
    """Mixed into a LoRA layer: it merges B with λ folded into its columns, and unmerges what it merged."""

    lora_B: Any  # nn.ModuleDict of LambdaColumns
    merged_adapters: list[str]

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Merges at the λ that is set; the arguments are PEFT's."""
        super().merge(*args, **kwargs)  # type: ignore[misc]
        columns = {name: self._columns(name) for name in self.merged_adapters}
        self.__dict__["merged_columns"] = columns | self.__dict__.get("merged_columns", {})

    def unmerge(self) -> None:
        """Takes away what was merged, whatever λ is set now."""
        super().unmerge()  # type: ignore[misc]
        self.__dict__.pop("merged_columns", None)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """scaling · B diag(s(λ)) A, `[out, in]`."""
        matrix = self.lora_B[adapter]
        columns = self.__dict__.get("merged_columns", {}).get(adapter)
        columns = self._columns(adapter) if columns is None else columns
        unfolded = matrix.weight.data
        matrix.weight.data = unfolded * columns.to(unfolded)
        try:
            delta: Tensor = super().get_delta_weight(adapter)  # type: ignore[misc]
        finally:
            matrix.weight.data = unfolded
        return delta

    def _columns(self, adapter: str) -> Tensor:
        matrix: LambdaColumns = self.lora_B[adapter]
        return matrix.context.single(matrix.weight)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so pickle cannot find it by its name.
        return _empty, (type(self).__mro__[2],), self.__dict__


@functools.cache
def _merging(layer_class: Any) -> Any:
    """The class of a LoRA layer that merges at a λ."""
    return type(f"Lambda{layer_class.__name__}", (MergesAtLambda, layer_class), {"__module__": __name__})


def _empty(layer_class: type) -> Any:
    """A layer whose attributes are set next."""
    return torch.nn.Module.__new__(_merging(layer_class))


def depend_on_lambda(layer: nn.Module, adapter: str, context: LambdaContext) -> None:
    """Turns an adapter of PEFT's LoRA layer `layer`, of rank R, into one whose columns λ scales."""
    matrices: Any = layer.lora_B
    matrices[adapter] = LambdaColumns(matrices[adapter], context)
    if not isinstance(layer, MergesAtLambda):
        layer_class: Any = type(layer)
        layer.__class__ = _merging(layer_class)
