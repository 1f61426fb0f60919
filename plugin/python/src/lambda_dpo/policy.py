"""Stage 5 with a Hugging Face model: the inputs of its forward, and the loss fused into its LM head.

Fused head: while the model runs, the forward of its LM head is replaced by one that computes the loss from the hidden
states. The decoder is called as usual, the logits are never materialised, and wrappers of the model (DDP, FSDP,
DeepSpeed) see a forward of the whole model: FSDP and ZeRO-3 gather the head's weight around the call and reduce its
gradient.
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

#: Config fields of models that transform their logits after the LM head.
_LOGIT_FIELDS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

#: Conversion of the packed layout's attention mask, by `_attn_implementation`.
_MASKS: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "sdpa": lambda mask, dtype: mask,
    "eager": lambda mask, dtype: torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype),
}

#: Sample with which a model is tried out: three responses, so that each has others that it must not attend to.
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
        layout: layout of its batches.
        attention: `attn_implementation` of the model; packed rows need "sdpa" or "eager".
        head: LM head that is replaced by the loss; None computes the loss from the model's logits.
        notices: why a faster path is not taken, one sentence each.
    """

    layout: Layout
    attention: str
    head: nn.Linear | None
    notices: tuple[str, ...] = ()

    def inputs(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Any]:
        """Returns the arguments of the model's forward for a batch."""
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
        if self.layout == "packed":
            inputs["position_ids"] = batch["position_ids"]
            inputs["attention_mask"] = _MASKS[self.attention](attention_mask_4d(batch), dtype)
        else:
            # Padding is on the right, so the model's default positions are correct.
            inputs["attention_mask"] = batch["attention_mask"]
        return inputs

    def run(
        self, model: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype, compute: Callable[..., Tensor]
    ) -> Tensor:
        """Runs the model on a batch and returns the result of `compute`.

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
    """Context in which calls of the module run `forward` instead of its own, together with the module's hooks."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def plan(model: Any, layout: Layout, *, try_out: bool = True) -> Policy:
    """Decides how to run `model`, which must not be wrapped yet: packed if it supports it, fused if its head is plain.

    With `try_out`, a model whose weights are loaded is also run on a few tokens; otherwise only its config decides.
    """
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None) or "eager"
    notices = []
    head = _plain_head(model, config)
    can_be_run = try_out and all(p.device.type != "meta" and p.numel() > 0 for p in model.parameters())
    if head is not None and can_be_run and not _head_comes_last(model, head):
        head = None
    if head is None:
        notices.append(
            f"{type(model).__name__} has no plain linear LM head, or transforms its logits: they are computed as a "
            "whole, which takes more memory."
        )
    if layout == "packed":
        problem = _packing_problem(model, config, attention)
        if problem is None and can_be_run and not _takes_packed_rows(model, attention):
            problem = "its logits differ on packed rows"
        if problem is not None:
            layout = "rows"
            notices.append(
                f"{type(model).__name__} does not support packed rows ({problem}): each response gets its own row, "
                "which is slower and gives the same loss."
            )
    return Policy(layout, attention, head, tuple(notices))


def _plain_head(model: Any, config: Any) -> nn.Linear | None:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_FIELDS):
        return None
    return head if type(head) is nn.Linear and head.bias is None else None


def _packing_problem(model: Any, config: Any, attention: str) -> str | None:
    if attention not in _MASKS:
        return f"attn_implementation {attention} does not accept a custom mask; sdpa does"
    kinds = set(getattr(config, "layer_types", None) or [])
    has_window = bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
    if kinds - {"full_attention"} or (has_window and not kinds):
        return "it uses sliding-window attention"
    forward = getattr(model, "get_base_model", lambda: model)().forward
    if "position_ids" not in inspect.signature(forward).parameters:
        return "its forward does not accept position_ids"
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
    """Whether the model's logits are exactly the output of its head."""
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
    """Whether packed rows give the same logits as separate rows, compared with the error without the mask."""
    parameter = next(model.parameters())

    def logits(layout: Layout, *, masked: bool = True) -> Tensor:
        collated = ListwiseCollator(layout=layout, pad_to_multiple_of=1)([_PROBE])
        batch = collated.to(parameter.device)
        inputs = Policy(layout, attention, None).inputs(batch, parameter.dtype)
        if not masked:
            inputs = {"input_ids": batch["input_ids"], "use_cache": False}
        found: Tensor = model(**inputs).logits
        return found.flatten(0, 1)[batch["target_positions"].to(found.device)].float()

    with _trying_out(model):
        single = logits("rows")
        try:
            packed = logits("packed")
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        unmasked = logits("packed", masked=False)
    error, without_mask = (packed - single).abs().max(), (unmasked - single).abs().max()
    return bool(error <= 0.1 * without_mask)
