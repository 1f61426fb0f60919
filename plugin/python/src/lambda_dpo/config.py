"""Options of λ-DPO, on their own and as part of `TrainingArguments`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from .errors import ConfigError
from .objectives import LOSS_TYPES, Objective, objective
from .records import ConvertOptions
from .schedules import SCHEDULES, LambdaSchedule

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "data_format": (None, "ultrafeedback", "pairs", "rankings"),
    "reduction": ("sum", "mean"),
    "layout": ("packed", "rows", "expanded"),
    "lambda_schedule": SCHEDULES,
    "lambda_per": ("instance", "step"),
}


@dataclass
class ListwiseOptions:
    """Options that λ-DPO adds to a training run."""

    loss_type: str = field(default="listwise", metadata={"help": f"The objective: {', '.join(LOSS_TYPES)}."})
    beta: float = field(
        default=0.1,
        metadata={
            "help": "β of the implicit reward, and the weight of ORPO's odds ratio: 0.01 to 0.5 is usual with sums, 0.1 "
            "to 10 with means, 0.01 to 1 for ipo, 2 to 10 for simpo, 0.05 to 1 for orpo."
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "sigmoid: the probability that a preference is wrong, below 0.5."}
    )
    simpo_gamma: float | None = field(default=None, metadata={"help": "simpo: the margin γ; default 0.5."})
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the mean negative log-likelihood of each prompt's best answer (under λ), which is added to "
            "the loss: `pref_ftx` in LLaMA-Factory, `rpo_alpha` in TRL."
        },
    )
    reduction: str | None = field(
        default=None,
        metadata={
            "help": "A response's log-prob is the `sum` or `mean` of its tokens'; default: `mean` for ipo, simpo and orpo, "
            "else `sum`."
        },
    )
    layout: str | None = field(
        default=None, metadata={"help": "Batch layout: `packed` (default), `rows` or `expanded`; the loss is the same."}
    )
    max_tokens: int | None = field(
        default=None, metadata={"help": "With `packed`: prompts share a row up to this many tokens."}
    )
    max_length: int | None = field(
        default=2048, metadata={"help": "Maximum length of prompt + longest response in tokens."}
    )
    data_format: str | None = field(
        default=None,
        metadata={
            "help": "Records have ratings (`ultrafeedback`), `chosen` and `rejected` (`pairs`) or `rankings`; default: "
            "`pairs` if they have these columns, else `ultrafeedback`."
        },
    )
    dimensions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rated dimensions, in order; default: all that occur in the records, sorted. A pair has its "
            "preference in each of them; default: one, `preference`."
        },
    )
    missing_rating: float | None = field(
        default=None,
        metadata={"help": "Value used for a missing rating; default: the response is left out of that dimension."},
    )
    rating_temperature: float | None = field(
        default=None, metadata={"help": "Temperature of the softmax over ratings; default 1."}
    )
    exclude_sources: list[str] = field(
        default_factory=list, metadata={"help": "Records from these sources are left out."}
    )
    lambda_schedule: str | None = field(
        default=None, metadata={"help": f"How λ is drawn: {', '.join(SCHEDULES)}; default dirichlet."}
    )
    lambda_alpha: float = field(default=1.0, metadata={"help": "α of the Dirichlet distribution."})
    lambda_normalization: str = field(default="softmax", metadata={"help": "For `gaussian`: `softmax` or `abs`."})
    lambda_dimension: str = field(default="cycle", metadata={"help": "For `unimodal`: a dimension, or `cycle`."})
    lambda_weights: dict[str, float] | None = field(
        default=None, metadata={"help": "For `fixed`: weight by dimension."}
    )
    lambda_table: list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "For `table`: rows of `weights` and `probability`."}
    )
    lambda_per: str | None = field(
        default=None, metadata={"help": "λ is drawn per prompt `instance` (default) or per `step`."}
    )
    logits_budget_mib: int | None = field(
        default=None,
        metadata={
            "help": "MiB of logits that may be in memory at once; default: 256, and on a GPU 1/32 of its free memory if "
            "that is more."
        },
    )
    paper_exact: bool = field(default=False, metadata={"help": "Follow the paper's Appendix B exactly."})
    precompute_ref_log_probs: bool = field(
        default=False, metadata={"help": "Compute reference log-probs once, before training, and keep them on disk."}
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "Prompts per batch when precomputing; default: the evaluation batch size."}
    )
    reference_cache: bool = field(default=True, metadata={"help": "Keep precomputed log-probs for later runs."})
    reference_free: bool = field(default=False, metadata={"help": "Train without a reference: s^ref = 0."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch dropout off in policy and reference."})

    def __post_init__(self) -> None:
        chosen = self.objective()
        self._check_objective(chosen)
        defaults = {"reduction": chosen.default_reduction, "layout": "packed", "lambda_schedule": "dirichlet", "lambda_per": "instance"}
        exact = {"reduction": "mean", "layout": "expanded", "missing_rating": 1.0, "rating_temperature": 1.0}
        if self.paper_exact:
            defaults = {"lambda_schedule": "uniform_normalized", "lambda_per": "step"}
            for name, value in exact.items():
                if getattr(self, name) not in (None, value):
                    raise ConfigError(f"`paper_exact` means {name} = {value}, but {name} is {getattr(self, name)}.")
                setattr(self, name, value)
        if self.rating_temperature is None:
            self.rating_temperature = 1.0
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(filter(None, choices))
                raise ConfigError(f"{name} is {getattr(self, name)!r}, but it must be one of {known}.")
        if self.reduction not in chosen.reductions:
            raise ConfigError(f"{self.loss_type} is defined on means over tokens: set reduction to mean.")
        if self.reference_free and self.precompute_ref_log_probs:
            raise ConfigError("`reference_free` and `precompute_ref_log_probs` contradict each other: set one of them.")

    def _check_objective(self, chosen: Objective) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"beta is {self.beta}, but it must be a finite number above 0.")
        owners = {"label_smoothing": (self.label_smoothing, "sigmoid"), "simpo_gamma": (self.simpo_gamma or 0.0, "simpo")}
        for name, (value, owner) in owners.items():
            if value != 0 and self.loss_type != owner:
                raise ConfigError(f"{name} is {value}, but only {owner} has it, not {self.loss_type}: leave it out.")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}, but it must be at least 0 and below 0.5.")
        for name, number in {"simpo_gamma": self.simpo_gamma or 0.0, "sft_weight": self.sft_weight}.items():
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{name} is {number}, but it must be a finite number of at least 0.")
        if self.paper_exact and self.loss_type != "listwise":
            raise ConfigError(f"`paper_exact` is the loss of Appendix B, but loss_type is {self.loss_type}: set one of them.")
        if self.precompute_ref_log_probs and not chosen.has_reference:
            raise ConfigError(f"{self.loss_type} has no reference: leave `precompute_ref_log_probs` out.")

    def objective(self) -> Objective:
        """The objective that `loss_type` names."""
        return objective(self.loss_type)

    @property
    def has_reference(self) -> bool:
        """Whether the loss depends on log-probs under a reference policy."""
        return self.objective().has_reference and not self.reference_free

    def convert_options(self, data_format: str | None = None) -> ConvertOptions:
        """Options for converting records of a format, by default that of `data_format`, to samples."""
        return ConvertOptions(
            dimensions=self.dimensions,
            missing_rating=self.missing_rating,
            temperature=self.rating_temperature or 1.0,
            exclude_sources=tuple(self.exclude_sources),
            format=data_format or self.data_format or "ultrafeedback",
        )

    def schedule(self, dimensions: Sequence[str]) -> LambdaSchedule:
        """λ schedule over the dimensions."""
        return LambdaSchedule(
            dimensions,
            self.lambda_schedule or "dirichlet",
            alpha=self.lambda_alpha,
            normalization=self.lambda_normalization,
            dimension=self.lambda_dimension,
            weights=self.lambda_weights,
            table=self.lambda_table,
        )


@dataclass
class LambdaDPOConfig(ListwiseOptions, TrainingArguments):
    """`TrainingArguments` with the options of λ-DPO, which have the names of TRL's `DPOConfig` if it has them too."""

    learning_rate: float = field(default=1e-6, metadata={"help": "The initial learning rate for AdamW."})
    logging_steps: float = field(default=10, metadata={"help": "Number of steps between logs."})
    model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Passed to `from_pretrained` if the model is given by name."}
    )

    def __post_init__(self) -> None:
        ListwiseOptions.__post_init__(self)
        # The collator reads columns that are not arguments of the model's forward.
        self.remove_unused_columns = False
        TrainingArguments.__post_init__(self)
