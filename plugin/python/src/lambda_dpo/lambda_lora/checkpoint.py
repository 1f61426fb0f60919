"""Gradient checkpointing that recomputes a layer at the λ of its forward, whatever λ is set when the backward runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from .context import LambdaContext, Shown


class _AtLambda:
    """A function that runs at one λ. Like a method, it tells its module, at which LLaMA-Factory's checkpointing looks."""

    def __init__(self, function: Callable[..., Any], context: LambdaContext, shown: Shown | None) -> None:
        self.function, self.context, self.shown = function, context, shown
        if hasattr(function, "__self__"):
            self.__self__ = function.__self__

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        with self.context.showing(self.shown):
            return self.function(*inputs, **options)


class CheckpointAtLambda:
    """A checkpointing function that carries λ: `checkpoint(function, *inputs)`."""

    def __init__(self, checkpoint: Callable[..., Any], context: LambdaContext) -> None:
        self.checkpoint = checkpoint
        self.context = context

    def __call__(self, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        shown = self.context.shown
        if isinstance(function, functools.partial):
            inner = _AtLambda(function.func, self.context, shown)
            return self.checkpoint(functools.partial(inner, *function.args, **function.keywords), *inputs, **options)
        return self.checkpoint(_AtLambda(function, self.context, shown), *inputs, **options)

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
