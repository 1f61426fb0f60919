"""Gradient checkpointing that recomputes a layer at the λ of its forward, whatever λ is set when the backward runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from .context import LambdaContext


class CheckpointAtLambda:
    """A checkpointing function that carries λ: `checkpoint(function, *inputs)`."""

    def __init__(self, checkpoint: Callable[..., Any], context: LambdaContext) -> None:
        self.checkpoint = checkpoint
        self.context = context

    def __call__(self, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        shown = self.context.shown

        def at_lambda(*inputs: Any, **options: Any) -> Any:
            with self.context.showing(shown):
                return function(*inputs, **options)

        return self.checkpoint(at_lambda, *inputs, **options)

    def carries(self, context: LambdaContext) -> bool:
        """Whether the λ of `context` is among those that it carries."""
        inner = self.checkpoint
        return self.context is context or (isinstance(inner, CheckpointAtLambda) and inner.carries(context))


def carry_lambda(modules: Iterable[nn.Module], contexts: Iterable[LambdaContext]) -> None:
    """Makes the checkpointing that Transformers has set up in `modules` carry the λ of `contexts`."""
    for module in modules:
        for context in contexts:
            checkpoint = module.__dict__.get("_gradient_checkpointing_func")
            if checkpoint is None or (isinstance(checkpoint, CheckpointAtLambda) and checkpoint.carries(context)):
                continue
            module.__dict__["_gradient_checkpointing_func"] = CheckpointAtLambda(checkpoint, context)
