"""Stage 4: collates tokenised samples and λ into a batch of tensors; builds the attention mask of packed rows."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import _abi, _native
from .tokenization import COLUMNS, RANKS

Layout = Literal["packed", "rows", "expanded"]

#: Left out of a batch, because Trainer gives `labels` a meaning of its own.
_UNUSED = ("labels",)

#: What a model reads; everything else in a batch is read by the library and the metrics, on the CPU.
_MODEL_FIELDS = ("input_ids", "attention_mask", "position_ids", "prompt_ids", "sequence_ids")


class Batch(dict[str, Tensor]):
    """Batch: tensors by name, of which only the model's go to its device.

    Trainer and Accelerate move a batch that has a method `to` by calling it, like Transformers' `BatchEncoding`.
    """

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Batch:
        """Returns the batch with the model's fields on `device` and all others on the CPU."""

        def moved(name: str, tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking) if name in _MODEL_FIELDS else tensor.cpu()

        return Batch({name: moved(name, tensor) for name, tensor in self.items()})


@dataclass
class ListwiseCollator:
    """Collates tokenised samples into one of three layouts, which all give the same loss and gradients.

    Attributes:
        layout: "packed": one row per prompt, with the prompt followed by its responses, which do not attend to each
            other and whose positions restart after the prompt; "rows": one padded row per response; "expanded": one
            padded row per response and dimension, as in the paper.
        pad_token_id: token id of the padding.
        max_tokens: with "packed", prompts share a row up to this many tokens; None puts one prompt in each row.
        pad_to_multiple_of: rows are padded to a multiple of this length.

    A batch is a dict of tensors, a `Batch` (R rows of T tokens, B prompts, M dimensions, C responses, S sequences, K target
    tokens): `input_ids`, `attention_mask`, `position_ids`, `prompt_ids`, `sequence_ids` `[R, T]`; `target_positions`,
    `target_ids`, `target_sequences` `[K]`; `sequence_num_tokens`, `sequence_prompts`, `sequence_responses` `[S]`;
    `prompt_offsets` `[B + 1]`; `sequence_index`, `pi_target`, `target_mask`, `ranks` `[M, C]`; `lambda` `[B, M]`;
    `record_indices` `[B]`; and `reference_log_probs` `[S]`, float64 sums, if the samples have them.
    """

    layout: Layout = "packed"
    pad_token_id: int = 0
    max_tokens: int | None = None
    pad_to_multiple_of: int = 8

    def __call__(self, features: Sequence[Mapping[str, Any]], weights: Tensor | None = None) -> Batch:
        """Collates `features` into a batch.

        Args:
            features: tokenised samples, with the columns of `tokenization.COLUMNS` and, optionally, `tokenization.RANKS`.
            weights: λ `[len(features), M]` or `[M]`; None is uniform.

        Raises:
            InvalidInputError: If a sample is inconsistent, or samples are inconsistent with each other.
        """
        samples = [self._sample(feature) for feature in features]
        num_dimensions = len(features[0]["pi_target"]) if features else 0
        if weights is None:
            weights = torch.full((num_dimensions,), 1 / max(num_dimensions, 1), dtype=torch.float64)
        weights = weights.to("cpu", torch.float64).expand(len(features), num_dimensions)
        options = _abi.CollateOptions(
            layout=_abi.LAYOUTS[self.layout],
            max_tokens=self.max_tokens or 0,
            pad_to_multiple_of=self.pad_to_multiple_of,
            pad_token_id=self.pad_token_id,
        )
        raw = _abi.Batch()
        _native.call(
            "collate",
            _native.handles(samples),
            len(samples),
            _native.doubles(weights.reshape(-1).tolist()),
            options,
            ctypes.byref(raw),
        )
        taken = _native.take_tensors(raw, _abi.BATCH_TENSORS)
        batch = Batch({name: tensor for name, tensor in taken.items() if name not in _UNUSED and tensor is not None})
        if features and "reference_log_probs" in features[0]:
            batch["reference_log_probs"] = self._reference(features, num_dimensions)
        return batch

    def _reference(self, features: Sequence[Mapping[str, Any]], num_dimensions: int) -> Tensor:
        copies = num_dimensions if self.layout == "expanded" else 1
        values = [value for feature in features for value in list(feature["reference_log_probs"]) * copies]
        return torch.tensor(values, dtype=torch.float64)

    @staticmethod
    def _sample(feature: Mapping[str, Any]) -> _native.Handle:
        tokens = {**{name: feature[name] for name in COLUMNS}, RANKS: feature.get(RANKS)}
        handle = _native.make("tokenized_sample_new", "tokenized_sample_free", _native.Text(json.dumps(tokens)).str)
        assert handle is not None
        return handle


def with_lambda(batch: Mapping[str, Tensor], weights: Tensor) -> Batch:
    """Returns the batch with a new λ `[B, M]` (or `[M]`), renormalised over the dimensions that count for each prompt.

    λ'_k = λ_k / Σ λ over the dimensions in which the prompt has at least two ratings; all 0 if none of them has weight.
    """
    shape = batch["prompt_offsets"].numel() - 1, batch["target_mask"].shape[0]
    lent, renormalized = _native.Lent(), ctypes.c_void_p()
    given = [batch["prompt_offsets"].cpu(), batch["target_mask"].cpu(), weights.to("cpu", torch.float64).expand(shape)]
    _native.call("renormalize_lambda", *map(lent.pointer, given), ctypes.byref(renormalized))
    taken = _native.take_tensor(renormalized.value)
    assert taken is not None
    return Batch({**batch, "lambda": taken.to(batch["target_mask"].device)})


def num_contributing(batch: Mapping[str, Tensor]) -> int:
    """Number of prompts with a dimension of positive weight: those that the loss is a mean over."""
    return int((batch["lambda"] > 0).any(dim=1).sum())


def attention_mask_4d(batch: Mapping[str, Tensor]) -> Tensor:
    """`[R, 1, T, T]` bool, True where a token attends.

    A token attends to itself and to the earlier tokens in its row that belong to the same prompt, and either to the
    same response or to no response (the prompt's own tokens).
    """
    prompts, sequences = batch["prompt_ids"], batch["sequence_ids"]
    length = prompts.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=prompts.device).tril()
    same_prompt = prompts[:, :, None] == prompts[:, None, :]
    visible = (sequences[:, None, :] == -1) | (sequences[:, :, None] == sequences[:, None, :])
    itself = torch.eye(length, dtype=torch.bool, device=prompts.device)
    # Padding has prompt −1. It attends to itself, so that its softmax is not empty; no other token may attend to it.
    real = (prompts != -1)[:, None, :]
    return ((causal & same_prompt & visible & real) | itself)[:, None]
