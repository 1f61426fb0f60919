"""Metrics of a run: sums over micro-batches and processes, and their means under TRL's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .loss import LossOutput


#: What the metrics read of a batch.
_FIELDS = (
    "lambda",
    "pi_target",
    "prompt_offsets",
    "sequence_index",
    "sequence_num_tokens",
    "sequence_prompts",
    "target_mask",
)


@dataclass
class Totals:
    """Sums over a logging interval or an evaluation, as one vector that can be reduced over processes.

    The metrics are `loss/<dimension>`, `rewards/accuracies`, `rewards/margins`, `rewards/chosen`, `rewards/rejected`,
    `logps/chosen`, `logps/rejected`, `nll_loss` (mean negative log-likelihood of the chosen responses' tokens, with an
    `sft_weight` and for ORPO), `logps/ratio` (mean over responses of s − s^ref, with s a sum) and `lambda/<dimension>`.
    *Chosen* is the response with the largest target under λ', *rejected* the one with the smallest.
    """

    dimensions: Sequence[str]
    beta: float
    is_mean: bool
    has_reference: bool
    has_sft_losses: bool = False
    _sums: Tensor | None = field(default=None, repr=False)

    def add(self, output: LossOutput, batch: Mapping[str, Tensor], num_prompts: int | None = None) -> None:
        """Adds a batch, or its first `num_prompts` prompts; everything that it reads is on the CPU."""
        row = self._row(output, batch, num_prompts)
        self._sums = row if self._sums is None else self._sums + row

    def take(self) -> Tensor:
        """Returns the sums so far, float64 `[11 + 3 M]`, and resets them."""
        sums, self._sums = self._sums, None
        return torch.zeros(11 + 3 * len(self.dimensions), dtype=torch.float64) if sums is None else sums

    def means(self, sums: Tensor) -> dict[str, float]:
        """Returns the metrics of `sums`, without those that are undefined."""
        values = sums.tolist()
        num_prompts, loss, accuracy, margin, chosen, rejected, chosen_log_prob, rejected_log_prob = values[:8]
        sft_loss, num_responses, log_ratio = values[8:11]
        metrics: dict[str, float] = {}
        if num_prompts > 0:
            metrics["loss"] = loss / num_prompts
            metrics["rewards/chosen"] = chosen / num_prompts
            metrics["rewards/rejected"] = rejected / num_prompts
            metrics["rewards/accuracies"] = accuracy / num_prompts
            metrics["rewards/margins"] = margin / num_prompts
            metrics["logps/chosen"] = chosen_log_prob / num_prompts
            metrics["logps/rejected"] = rejected_log_prob / num_prompts
            if self.has_sft_losses:
                metrics["nll_loss"] = sft_loss / num_prompts
        if num_responses > 0 and self.has_reference:
            metrics["logps/ratio"] = log_ratio / num_responses
        for k, name in enumerate(self.dimensions):
            count, dimension_loss, weight = values[11 + 3 * k : 14 + 3 * k]
            if count > 0:
                metrics[f"loss/{name}"] = dimension_loss / count
            if num_prompts > 0:
                metrics[f"lambda/{name}"] = weight / num_prompts
        return metrics

    def _row(self, output: LossOutput, batch: Mapping[str, Tensor], num_prompts: int | None) -> Tensor:
        batch = {name: batch[name].cpu() for name in _FIELDS}  # As the outputs are; nothing to do for a `Batch`.
        weights = batch["lambda"].double()  # [B, M]
        kept = torch.arange(len(weights), device=weights.device) < (len(weights) if num_prompts is None else num_prompts)
        weights = weights * kept[:, None]
        contributes = (weights > 0).any(dim=1)  # [B]
        best, worst = _best_and_worst(batch, weights)  # [B] indices of sequences
        rewards, log_probs = output.rewards.double(), output.sequence_log_probs.double()
        log_ratios = rewards / self.beta  # [S]
        if self.is_mean:
            log_ratios = log_ratios * batch["sequence_num_tokens"]
        per_prompt = torch.stack(
            [
                torch.ones_like(rewards[best]),
                output.prompt_losses.double(),
                output.accuracies.double(),
                output.margins.double(),
                rewards[best],
                rewards[worst],
                log_probs[best],
                log_probs[worst],
                torch.zeros_like(rewards[best]) if output.sft_losses is None else output.sft_losses.double(),
            ]
        )  # [9, B]
        prompt_sums = (per_prompt * contributes).sum(dim=1)
        response_sums = torch.stack([torch.ones_like(log_ratios), log_ratios])  # [2, S]
        response_sums = (response_sums * kept[batch["sequence_prompts"]]).sum(dim=1)
        counts = output.dimension_mask.double() * kept[:, None]  # [B, M]
        dimension_sums = torch.stack(
            [counts.sum(dim=0), (output.dimension_losses * counts).sum(dim=0), (weights * contributes[:, None]).sum(dim=0)],
            dim=1,
        )  # [M, 3]
        return torch.cat([prompt_sums, response_sums, dimension_sums.reshape(-1)])


def _best_and_worst(batch: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Indices `[B]` of the sequences with the largest and the smallest target under λ'."""
    offsets, mask = batch["prompt_offsets"], batch["target_mask"]
    num_prompts = offsets.numel() - 1
    prompts = torch.repeat_interleave(torch.arange(num_prompts, device=mask.device), offsets.diff())  # [C]
    mixed = (weights[prompts].T * batch["pi_target"].double()).sum(dim=0)  # [C]
    rated = mask.any(dim=0)
    # A response that is rated in no dimension is neither best nor worst.
    belongs = prompts[None, :] == torch.arange(num_prompts, device=mask.device)[:, None]  # [B, C]
    counted = belongs & rated[None, :]
    counted = torch.where(counted.any(dim=1, keepdim=True), counted, belongs)
    best = torch.where(counted, mixed, -torch.inf).argmax(dim=1)
    worst = torch.where(counted, mixed, torch.inf).argmin(dim=1)
    sequences = batch["sequence_index"][0]
    return sequences[best], sequences[worst]
