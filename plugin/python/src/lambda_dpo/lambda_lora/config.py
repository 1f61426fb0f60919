"""`LambdaLoraConfig`: configuration of a λ-adapter, the fields of the program's `adapter_config.json`."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig

from ..errors import ConfigError

PEFT_TYPE = "LAMBDA_LORA"

#: Fields of PEFT's `LoraConfig` that a λ-adapter has too; all others must have their default.
_SUPPORTED = {
    *("r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights"),
    # Become a list of layers when the adapter is made.
    *("exclude_modules", "layers_to_transform", "layers_pattern"),
    # Say where an adapter comes from, or how PEFT treats it.
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "megatron_core", "qalora_group_size"),
}

#: `init_lora_weights` that neither change the base model nor need data: the default, random B (for tests), gaussian A.
_INITIALISATIONS = (True, False, "gaussian")


@dataclass
class LambdaLoraConfig(LoraConfig):
    """Configuration of a λ-adapter, for `get_peft_model` and `LambdaDPOTrainer`.

    Attributes:
        r: rank of the part that does not depend on λ; may be 0.
        rank_per_dimension: rank of each dimension's part; None is `r`.
        dimensions: names of the M dimensions, in the order of λ; None takes those of the trainer's records.
        task_type: as for LoRA, with a default that gives the model `generate`.
        lora_alpha: the adapter's output is scaled by lora_alpha / rank_per_dimension (with `use_rslora` by lora_alpha /
            √rank_per_dimension); None is twice that rank.
        target_modules: names of the adapted layers, as for LoRA; by default all linear ones but the head.

    `lora_dropout`, `use_rslora`, `init_lora_weights` (True, False or "gaussian"), `exclude_modules` and
    `layers_to_transform` are those of `LoraConfig`, and what else it has is refused: the program, which reads and
    writes the same folders, has no equivalent.

    Raises:
        ConfigError: If a value is out of range, a name comes twice, or a field is not supported.
    """

    task_type: str | None = "CAUSAL_LM"
    r: int = 8
    lora_alpha: float | None = None
    target_modules: list[str] | str | None = "all-linear"
    rank_per_dimension: int | None = field(
        default=None, metadata={"help": "Rank of each dimension's part; default: r."}
    )
    dimensions: list[str] | None = field(
        default=None, metadata={"help": "Names of the dimensions, in the order of λ; default: those of the records."}
    )

    def __post_init__(self) -> None:
        if self.rank_per_dimension is None:
            self.rank_per_dimension = self.r
        if self.lora_alpha is None:
            self.lora_alpha = 2 * self.rank_per_dimension
        if self.target_modules is None:
            self.target_modules = "all-linear"
        if self.task_type is None:  # In folders that PEFT wrote for a model without one.
            self.task_type = "CAUSAL_LM"
        self._check()
        super().__post_init__()
        # Registered before this class can be made: peft.PeftType has the member.
        from peft import PeftType

        self.peft_type = PeftType(PEFT_TYPE)

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """Refuses an adapter's folder of another kind; PEFT calls this with the fields of its configuration."""
        found = kwargs.get("peft_type", PEFT_TYPE)
        if found != PEFT_TYPE:
            raise ConfigError(
                f"The adapter's peft_type is {found}, not {PEFT_TYPE}, so it has no λ: load it with PEFT's own "
                "configuration, or give the folder of a λ-adapter."
            )
        checked: dict[str, Any] = super().check_kwargs(**kwargs)
        return checked

    @property
    def scaling(self) -> float:
        """Factor of B (s(λ) ⊙ (A x))."""
        rank, alpha = self.rank_per_dimension, self.lora_alpha
        assert rank is not None and alpha is not None  # Since `__post_init__`.
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def total_rank(self) -> int:
        """R = r + M · rank_per_dimension."""
        return self.r + len(self.named_dimensions) * (self.rank_per_dimension or 0)

    @property
    def named_dimensions(self) -> list[str]:
        """The names of the dimensions.

        Raises:
            ConfigError: If nothing has named them yet.
        """
        if self.dimensions is None:
            raise ConfigError(
                "The λ-adapter has no dimensions: name them, as in "
                'LambdaLoraConfig(dimensions=["helpfulness", "honesty"]).'
            )
        return self.dimensions

    def of(self, dimensions: Sequence[str]) -> LambdaLoraConfig:
        """Returns the configuration with the records' dimensions, if it names none.

        Raises:
            ConfigError: If it names others.
        """
        if self.dimensions is None:
            found = copy.copy(self)
            found.dimensions = list(dimensions)
            found._check()
            return found
        refuse_other_dimensions(self.dimensions, dimensions)
        return self

    def as_lora(self) -> LambdaLoraConfig:
        """Returns the configuration as PEFT's LoRA layers read it: of rank R, with the same scaling."""
        found = copy.copy(self)
        found.r = self.total_rank
        found.lora_alpha = self.scaling * found.r
        found.use_rslora = False
        return found

    def _check(self) -> None:
        for name, value, least in (("rank", self.r, 0), ("rank per dimension", self.rank_per_dimension, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"An adapter's {name} must be at least {least}, found {value}")
        if not (isinstance(self.lora_dropout, (int, float)) and 0 <= self.lora_dropout < 1):
            raise ConfigError(f"An adapter's dropout must be at least 0 and below 1, found {self.lora_dropout}")
        if not (isinstance(self.lora_alpha, (int, float)) and math.isfinite(self.lora_alpha)):
            raise ConfigError(f"An adapter's alpha must be a number, found {self.lora_alpha}")
        if self.dimensions is not None:
            self._check_dimensions(self.dimensions)
        if self.init_lora_weights not in _INITIALISATIONS:
            raise ConfigError(
                f"`init_lora_weights` = {self.init_lora_weights!r} is not supported by a λ-adapter: set it to True, "
                "False or 'gaussian'."
            )
        for option in dataclasses.fields(LoraConfig):
            if option.name in _SUPPORTED or not option.init:
                continue
            value = getattr(self, option.name)
            # "none" is PEFT's word for no trained biases.
            if value and value != "none":
                raise ConfigError(f"`{option.name}` = {value!r} is not supported by a λ-adapter: leave it out.")

    @staticmethod
    def _check_dimensions(dimensions: Any) -> None:
        if not isinstance(dimensions, (list, tuple)) or not all(isinstance(name, str) for name in dimensions):
            raise ConfigError(f"`dimensions` is {dimensions!r}, but a λ-adapter has the list of their names.")
        if not dimensions:
            raise ConfigError("A λ-adapter needs at least one dimension, found none")
        name, count = Counter(dimensions).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"`dimensions` names `{name}` twice: name each dimension once.")


def refuse_other_dimensions(of_adapter: Sequence[str], of_records: Sequence[str]) -> None:
    """Raises a ConfigError unless adapter and records have the same dimensions, in whatever order."""
    if set(of_adapter) != set(of_records):
        raise ConfigError(
            f"The adapter has the dimensions {', '.join(of_adapter)}, but the records are rated in "
            f"{', '.join(of_records)}: name the same ones in `dimensions` of both."
        )
