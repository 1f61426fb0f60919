"""Shows the λ of the trainer's batches to a λ-adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from ..collator import Layout
from .config import refuse_other_dimensions
from .context import Shown
from .model import active_contexts


class BatchLambda:
    """The λ-adapter of a trainer's policy.

    Args:
        model: the policy, not wrapped.
        dimensions: those of the records, in the order of λ in the batches.

    Raises:
        ConfigError: If the adapter has other dimensions.
    """

    def __init__(self, model: nn.Module, dimensions: Sequence[str]) -> None:
        self._contexts = active_contexts(model)
        # For each adapter, where its dimensions are among those of the records.
        self._orders: list[list[int]] = []
        for context in self._contexts:
            refuse_other_dimensions(context.dimensions, dimensions)
            self._orders.append([list(dimensions).index(name) for name in context.dimensions])

    def show(self, batch: Mapping[str, Tensor], layout: Layout) -> None:
        """Sets λ to that of a batch, until the next: checkpointed layers run again in the backward.

        Padding sees the λ of the first prompt; nothing reads what comes of it.
        """
        prompts = batch["prompt_ids"].cpu()  # [rows, T], −1 on padding
        of_rows = prompts.clamp(min=0) if layout == "packed" else prompts[:, 0]
        for context, order in zip(self._contexts, self._orders, strict=True):
            context.shown = Shown(batch["lambda"].cpu()[:, order][of_rows])  # [rows, T, M], or [rows, M]

    @contextlib.contextmanager
    def kept(self, *, uniform: bool = False) -> Iterator[None]:
        """Context at whose end λ is what it was at the start; it begins with the same λ, or the uniform one."""
        with contextlib.ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context.showing(Shown(context.uniform()) if uniform else context.shown))
            yield
