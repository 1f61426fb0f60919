"""Stage 5 in a Hugging Face model: what its forward takes, and the loss in the place of its LM head.

The fused head: while the model runs, the forward of its LM head is replaced by one that takes the hidden states and gives the
loss. The decoder is called as ever, the logits never exist, and whatever wraps the model (DDP, FSDP, DeepSpeed) sees a
forward of the whole model: FSDP and ZeRO-3 gather the head's weight around the call, and sync its gradient.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .collator import Layout, ListwiseCollator, attention_mask_4d

#: Config fields under which a model does more to its logits than multiply by its head.
_LOGIT_FIELDS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

#: Attention of a row's tokens as the packed layout needs it, by `_attn_implementation`.
_MASKS: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "sdpa": lambda mask, dtype: mask,
    "eager": lambda mask, dtype: torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype),
}

#: Of the tokens with which a model is tried out: enough for each response to have something to be blind to.
_PROBE = {
    "record": 0,
    "prompt_ids": [1, 2, 3],
    "response_ids": [[4, 5, 6], [6, 4], [5, 3, 2, 1]],
    "response_indices": [0, 1, 2],
    "pi_target": [[0.5, 0.25, 0.25]],
}


@dataclass(frozen=True)
class Policy:
    """How a model is run.

    Attributes:
        layout: of its batches.
        attention: "sdpa", "eager", or another in which packed rows cannot be expressed.
        head: the LM head in whose place the loss is computed; None takes the model's logits.
        notices: what could not be had, each as a sentence.
    """

    layout: Layout
    attention: str
    head: nn.Linear | None
    notices: tuple[str, ...] = ()

    def inputs(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Any]:
        """What the model's forward takes of a batch."""
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
        if self.layout == "packed":
            inputs["position_ids"] = batch["position_ids"]
            inputs["attention_mask"] = _MASKS[self.attention](attention_mask_4d(batch), dtype)
        else:
            # Padding is on the right: positions are what the model takes by itself.
            inputs["attention_mask"] = batch["attention_mask"]
        return inputs

    def run(
        self, model: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype, compute: Callable[..., Tensor]
    ) -> Tensor:
        """Runs the model on a batch and gives what `compute` makes of it.

        `compute` is called with `hidden` and `lm_head`, or with `logits`.
        """
        inputs = self.inputs(batch, dtype)
        head = self.head
        if head is None:
            return compute(logits=model(**inputs).logits)
        with _replaced(head, lambda hidden: compute(hidden=hidden, lm_head=head.weight)):
            output: Tensor = model(**inputs).logits
            return output


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, calls of the module call `forward`, between the module's hooks."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def plan(model: Any, layout: Layout) -> Policy:
    """How to run `model`, which is not wrapped yet: packed where it takes it, with a fused head where it has a plain one.

    A model whose weights are here is tried out on a few tokens; of one that is sharded or not loaded, its config decides.
    """
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None) or "eager"
    notices = []
    head = _plain_head(model, config)
    can_be_run = all(p.device.type != "meta" and p.numel() > 0 for p in model.parameters())
    if head is not None and can_be_run and not _head_comes_last(model, head):
        head = None
    if head is None:
        notices.append(
            f"{type(model).__name__} does more than multiply by a plain LM head: its logits are computed whole, in more "
            "memory."
        )
    if layout == "packed":
        problem = _packing_problem(model, config, attention)
        if problem is None and can_be_run and not _takes_packed_rows(model, attention):
            problem = "it gives other results on packed rows"
        if problem is not None:
            layout = "rows"
            notices.append(
                f"{type(model).__name__} cannot take packed rows ({problem}): every response is a row of its own, which is "
                "slower and gives the same loss."
            )
    return Policy(layout, attention, head, tuple(notices))


def _plain_head(model: Any, config: Any) -> nn.Linear | None:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_FIELDS):
        return None
    return head if type(head) is nn.Linear and head.bias is None else None


def _packing_problem(model: Any, config: Any, attention: str) -> str | None:
    if attention not in _MASKS:
        return f"attn_implementation {attention} takes no mask of its own; sdpa does"
    kinds = set(getattr(config, "layer_types", None) or [])
    has_window = bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
    if kinds - {"full_attention"} or (has_window and not kinds):
        return "its attention has a window"
    forward = getattr(model, "get_base_model", lambda: model)().forward
    if "position_ids" not in inspect.signature(forward).parameters:
        return "its forward takes no position_ids"
    return None


@contextlib.contextmanager
def _trying_out(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _head_comes_last(model: nn.Module, head: nn.Linear) -> bool:
    """Whether the model gives as logits what its head gives."""
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tokens = torch.tensor([_PROBE["prompt_ids"]], device=head.weight.device)
    try:
        with _trying_out(model):
            logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        hook.remove()
    return len(seen) == 1 and seen[0].shape == logits.shape and torch.equal(seen[0], logits)


def _takes_packed_rows(model: nn.Module, attention: str) -> bool:
    """Whether packed rows give the logits of single ones, as they do not without the mask."""
    parameter = next(model.parameters())

    def logits(layout: Layout, *, masked: bool = True) -> Tensor:
        collated = ListwiseCollator(layout=layout, pad_to_multiple_of=1)([_PROBE])
        batch = {name: tensor.to(parameter.device) for name, tensor in collated.items()}
        inputs = Policy(layout, attention, None).inputs(batch, parameter.dtype)
        if not masked:
            inputs = {"input_ids": batch["input_ids"], "use_cache": False}
        found: Tensor = model(**inputs).logits
        return found.flatten(0, 1)[batch["target_positions"]].float()

    with _trying_out(model):
        single = logits("rows")
        try:
            packed = logits("packed")
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        unmasked = logits("packed", masked=False)
    error, without_mask = (packed - single).abs().max(), (unmasked - single).abs().max()
    return bool(error <= 0.1 * without_mask)
