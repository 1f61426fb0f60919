"""Stages 6 and 7 as a `torch.autograd.Function`: log-probs and losses, whose backward runs in the library.

Shapes: R rows of T tokens, H hidden size, V vocabulary size, B prompts, M dimensions, C responses, S sequences (C, or
M·C in the expanded layout), K target tokens. Numbers in parentheses are those of the equations in docs/method.md.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _abi, _native
from .objectives import LossType, Reduction, objective

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _not_compiled(function: _Function) -> _Function:
    """Excludes a function from torch.compile, which cannot trace into the library."""
    disabled: _Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return disabled


_TARGETS = ("target_positions", "target_ids", "target_sequences")
_PREFERENCES = ("prompt_offsets", "sequence_index", "pi_target", "target_mask", "lambda")
_WANTS = (
    _abi.WANTS_HIDDEN,
    _abi.WANTS_LM_HEAD,
    _abi.WANTS_LOGITS,
    _abi.WANTS_SEQUENCE_LOG_PROBS,
)


@dataclass(frozen=True)
class LossOutput:
    """Loss and its components. Only `loss` carries a gradient, and only `loss` is on the device of the policy's output:
    the others are on the CPU, where they are computed.

    Attributes:
        loss: `[]`, float32 (float64 for float64 inputs), divided by the normaliser.
        token_log_probs: `[K]`; None if sequence log-probs were passed in.
        sequence_log_probs: `[S]` sums, or means with `reduction="mean"`.
        rewards: `[S]` β (s − s^ref) (17), with s^ref = 0 for an objective without a reference.
        prompt_losses: `[B]` Σ_k λ'_k L^(k) + `sft_weight` · `sft_losses`.
        dimension_losses: `[B, M]` L^(k) (8); 0 where `dimension_mask` is False.
        dimension_mask: `[B, M]` whether the dimension counts for the prompt.
        accuracies: `[B]` 1 if the response with the highest reward is the best under λ'; ties share the credit.
        dimension_accuracies: `[B, M]` the same under the target of each dimension.
        margins: `[B]` reward of the best response minus reward of the worst, under λ'.
        sft_losses: `[B]` mean negative log-likelihood per token of the best response under λ'; None unless `sft_weight`
            is above 0 or the objective is ORPO.
    """

    loss: Tensor
    token_log_probs: Tensor | None
    sequence_log_probs: Tensor
    rewards: Tensor
    prompt_losses: Tensor
    dimension_losses: Tensor
    dimension_mask: Tensor
    accuracies: Tensor
    dimension_accuracies: Tensor
    margins: Tensor
    sft_losses: Tensor | None = None


@_not_compiled
def lambda_dpo_loss(
    batch: Mapping[str, Tensor],
    *,
    hidden: Tensor | None = None,
    lm_head: Tensor | None = None,
    logits: Tensor | None = None,
    log_probs: Tensor | None = None,
    reference_log_probs: Tensor | None = None,
    loss_type: LossType = "listwise",
    beta: float = 0.1,
    reduction: Reduction | None = None,
    label_smoothing: float = 0.0,
    simpo_gamma: float | None = None,
    sft_weight: float = 0.0,
    normalizer: float | None = None,
    logits_budget_mib: int | None = None,
    paper_exact: bool = False,
) -> LossOutput:
    """λ-DPO loss (15), or that of another objective, differentiable with respect to the policy's output.

    Each dimension's loss is over the responses that it rates, and λ' mixes them: `listwise` is the cross-entropy with
    the target distributions, `plackett_luce` the likelihood of the order, and the others are means over the pairs of
    responses that the dimension does not rate equally (equations: docs/method.md, "Objectives"). The order is that of
    `batch["ranks"]`; without it, that of `batch["pi_target"]`.

    The policy's output is one of `hidden` with `lm_head` (the fast path, which never materialises the logits of a whole
    batch), `logits`, or `log_probs`. Sums and softmaxes accumulate in float32 or better, whatever the inputs' dtype.

    Args:
        batch: a batch of `ListwiseCollator`; with `log_probs`, `prompt_offsets`, `sequence_index`, `pi_target`,
            `target_mask` and `lambda` are enough, and `sequence_num_tokens` if sums have an `sft_weight`. They are read on
            the CPU: a field on a GPU costs a copy that waits for all work queued there.
        hidden: `[R, T, H]` or `[R·T, H]`, after the final norm.
        lm_head: `[V, H]`; cast to the dtype of `hidden` if they differ.
        logits: `[R, T, V]` or `[R·T, V]`.
        log_probs: `[S]` sequence log-probs, reduced according to `reduction`.
        reference_log_probs: `[S]`, reduced likewise; None means s^ref = 0, and is the only choice for `simpo` and `orpo`.
        loss_type: the objective: `listwise` (λ-DPO), `plackett_luce`, `sigmoid` (DPO), `hinge`, `ipo`, `simpo`, `orpo`.
        beta: β (17), λ of ORPO's odds ratio. 0.1 suits sums, IPO and ORPO; 2 to 10 means and SimPO.
        reduction: whether s is the sum or the mean of a response's token log-probs; None is the mean for `ipo`, `simpo`
            and `orpo`, of which the last two have no other, and the sum for the others.
        label_smoothing: `sigmoid`: the probability that a preference is wrong, below 0.5 (conservative DPO).
        simpo_gamma: `simpo`: the margin γ; None is 0.5.
        sft_weight: weight of the mean negative log-likelihood of each prompt's best response under λ', which is added to
            the loss: LLaMA-Factory's `pref_ftx`, TRL's `rpo_alpha`.
        normalizer: divisor of the loss; None divides by the number of contributing prompts in the batch.
        logits_budget_mib: MiB of logits that may be in memory at once; None is 256, and on a GPU 1/32 of the memory that
            is free at the first call, if that is more.
        paper_exact: add 1e-10 to the targets, as the paper's Appendix B does.

    Raises:
        InvalidInputError: If shapes, dtypes or arguments are inconsistent.
    """
    if hidden is not None and lm_head is not None and lm_head.dtype != hidden.dtype:
        lm_head = lm_head.to(hidden.dtype)
    chosen = objective(loss_type)
    call = _Call(
        batch,
        reference_log_probs,
        _abi.LossOptions(
            objective=chosen.code,
            beta=beta,
            label_smoothing=label_smoothing,
            simpo_gamma=chosen.gamma(simpo_gamma),
            sft_weight=sft_weight,
            paper_exact=int(paper_exact),
        ),
        chosen.default_reduction if reduction is None else reduction,
        normalizer,
        logits_budget_mib,
    )
    loss: Tensor = _Loss.apply(call, hidden, lm_head, logits, log_probs)  # type: ignore[no-untyped-call]
    outputs = {name: value for name, value in call.outputs.items() if name != "loss"}
    return LossOutput(loss=loss, **outputs)


@_not_compiled
def sequence_log_probs(
    batch: Mapping[str, Tensor],
    *,
    hidden: Tensor | None = None,
    lm_head: Tensor | None = None,
    logits: Tensor | None = None,
    reduction: Reduction = "sum",
    logits_budget_mib: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Token log-probs `[K]` and sequence log-probs `[S]`, without gradients, on the CPU.

    The arguments are those of `lambda_dpo_loss`.
    """
    if hidden is not None and lm_head is not None and lm_head.dtype != hidden.dtype:
        lm_head = lm_head.to(hidden.dtype)
    call = _Call(batch, None, _abi.LossOptions(beta=1.0), reduction, None, logits_budget_mib)
    return call.log_probs((hidden, lm_head, logits, None))


class _Call:
    """One evaluation of the loss: its options, the outputs of its forward, and the context of its backward."""

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        reference_log_probs: Tensor | None,
        options: _abi.LossOptions,
        reduction: Reduction,
        normalizer: float | None,
        logits_budget_mib: int | None,
    ) -> None:
        if reduction not in _abi.REDUCTIONS:
            raise ValueError(f'reduction is {reduction!r}, but it must be "sum" or "mean".')
        if normalizer is not None and not normalizer > 0:
            raise ValueError(f"normalizer is {normalizer}, but it must be above 0.")
        self.batch = batch
        self.reference_log_probs = reference_log_probs
        options.reduction = _abi.REDUCTIONS[reduction]
        options.normalizer = normalizer or 0.0
        options.logits_budget_bytes = 0 if logits_budget_mib is None else logits_budget_mib << 20
        self.options = options
        self.has_budget = logits_budget_mib is not None
        self.outputs: dict[str, Any] = {}
        self.context: _native.Handle | None = None

    def forward(self, given: tuple[Tensor | None, ...], wants: int) -> Tensor:
        self.options.wants = wants
        self.outputs = self._run(given)
        is_double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in given)
        dtype = torch.float64 if is_double else torch.float32
        # Filled on the device: a copy to it would wait for all work that is queued there.
        return torch.full((), self.outputs["loss"].item(), dtype=dtype, device=_device(given))

    def _run(self, given: tuple[Tensor | None, ...]) -> dict[str, Any]:
        """Runs the library's forward; returns its outputs and keeps the context for one backward."""
        outputs = _abi.LossOutputs()
        raw = ctypes.c_void_p()
        lent = _native.Lent()
        context = ctypes.byref(raw) if self.options.wants else None
        with _exact(given):
            inputs = self._inputs(lent, given, preferences=True)
            _native.call("loss_forward", inputs, self.options, ctypes.byref(outputs), context)
        self.context = _native.Handle(raw.value, "loss_context_free") if raw.value else None
        return _native.take_tensors(outputs, _abi.OUTPUT_TENSORS)

    def backward(self, given: tuple[Tensor | None, ...], grad_output: float) -> tuple[Tensor | None, ...]:
        if self.context is None:  # Second backward with retain_graph=True: a context can only be used once.
            self._run(given)
        assert self.context is not None
        lent = _native.Lent()
        gradients = _abi.LossGradients()
        with _exact(given):
            inputs = self._inputs(lent, given, preferences=True)
            _native.call("loss_backward", self.context.raw, inputs, grad_output, ctypes.byref(gradients))
        self.context = None
        taken = _native.take_tensors(gradients, _abi.GRADIENT_TENSORS)
        return tuple(taken[name] for name in _abi.GRADIENT_TENSORS)

    def log_probs(self, given: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
        lent = _native.Lent()
        tokens, sequences = ctypes.c_void_p(), ctypes.c_void_p()
        inputs = self._inputs(lent, given, preferences=False)
        with _exact(given):
            _native.call("log_probs", inputs, self.options, ctypes.byref(tokens), ctypes.byref(sequences))
        taken = _native.take_tensor(tokens.value), _native.take_tensor(sequences.value)
        assert taken[0] is not None and taken[1] is not None
        return taken[0], taken[1]

    def _inputs(
        self, lent: _native.Lent, given: tuple[Tensor | None, ...], *, preferences: bool
    ) -> _abi.LossInputs:
        hidden, lm_head, logits, log_probs = given
        scored = {"hidden": hidden, "lm_head": lm_head, "logits": logits, "sequence_log_probs": log_probs}
        small: dict[str, Tensor | None] = {}
        if log_probs is None:
            small |= {name: self.batch[name] for name in _TARGETS}
            num_sequences = self.batch["sequence_num_tokens"].numel()
        else:
            num_sequences = log_probs.numel()
            small["sequence_num_tokens"] = self.batch.get("sequence_num_tokens")
        if preferences:
            small |= {name: self.batch[name] for name in _PREFERENCES}
            small["ranks"] = self.batch.get("ranks")
            small["reference_log_probs"] = self.reference_log_probs
        device = _device(given)
        if not self.has_budget:
            self.options.logits_budget_bytes = _default_budget_bytes(device)
        fields = {name: tensor.to(device) for name, tensor in scored.items() if tensor is not None}
        fields |= {name: tensor.cpu() for name, tensor in small.items() if tensor is not None}
        pointers = {name: lent.pointer(tensor) for name, tensor in fields.items()}
        inputs = _abi.LossInputs(num_sequences=num_sequences, **pointers)
        inputs.lent = lent  # Keeps the tensors alive as long as the struct that points to them.
        return inputs


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor | None) -> Tensor:
        wants = sum(bit for bit, needed in zip(_WANTS, ctx.needs_input_grad[1:], strict=True) if needed)
        ctx.call = call
        ctx.save_for_backward(*given)
        return call.forward(given, wants)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.call.backward(ctx.saved_tensors, grad_output.item()))


@functools.cache
def _default_budget_bytes(device: torch.device) -> int:
    """Bytes of logits for a device, by the rule of the program; on the CPU 0, the library's own default."""
    if device.type != "cuda":
        return 0
    share: int = torch.cuda.mem_get_info(device)[0] // 32
    return max(1 << max(share.bit_length() - 1, 0), 256 << 20)


def _device(given: tuple[Tensor | None, ...]) -> torch.device:
    return next((tensor.device for tensor in given if tensor is not None), torch.device("cpu"))


def _exact(given: tuple[Tensor | None, ...]) -> torch.autocast:
    """Disables autocast for a call: the library chooses its own precision, and autocast would apply to it, too."""
    return torch.autocast(_device(given).type, enabled=False)
