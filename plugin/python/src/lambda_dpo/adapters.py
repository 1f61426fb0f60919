"""The policy's adapter: how it is added, how it sees λ, and whether the model without it can be the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from .collator import Layout
from .errors import ConfigError
from .peft_configs import peft_configs

#: `init_lora_weights` that leave the base unchanged. The others (pissa, olora, corda, loftq, lora_ga, …) move a part of
#: each weight into the adapter.
_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")

#: Parts of the names of parameters that PEFT replaces by the original ones if the adapter is disabled.
_SWITCHED_OFF = ("modules_to_save.", "trainable_tokens_", "prompt_encoder.")

_WAY_OUT = (
    "so the model with its adapter disabled is not the initial policy: pass that model, loaded a second time, as "
    "ref_model"
)


def refuse_moved_reference(model: Any) -> None:
    """Refuses a `PeftModel` whose base, with the adapter disabled, is not the policy at the start.

    Raises:
        ConfigError: If the adapter's initialisation changed the base's weights, or training will.
    """
    for config in model.peft_config.values():
        initialisation = getattr(config, "init_lora_weights", None)
        if isinstance(initialisation, str) and initialisation.lower() not in _INITIALISATIONS:
            raise ConfigError(f"init_lora_weights = {initialisation!r} changes the base model's weights, {_WAY_OUT}.")
        if getattr(config, "kasa_config", None) is not None:
            raise ConfigError(f"`kasa_config` changes the base model's weights, {_WAY_OUT}.")
    prefix = getattr(model.base_model, "prefix", None)
    switched_off = (*_SWITCHED_OFF, prefix) if prefix else _SWITCHED_OFF
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not any(part in name for part in switched_off):
            biases = {config.bias for config in model.peft_config.values() if getattr(config, "bias", "none") != "none"}
            cause = f" (bias = {sorted(biases)[0]!r})" if biases and name.endswith("bias") else ""
            raise ConfigError(f"Training changes `{name}` of the base model{cause}, {_WAY_OUT}.")


def with_adapter(model: Any, peft_config: Any, dimensions: Sequence[str], args: Any) -> Any:
    """Adds an adapter to the policy; a λ-adapter gets the dimensions of the records, if its configuration names none.

    Raises:
        ConfigError: If it names others.
    """
    from peft import get_peft_model

    if _depends_on_lambda(peft_config):
        peft_config = peft_config.of(dimensions)
    adapted = get_peft_model(model, peft_config)
    if args.gradient_checkpointing:
        # A checkpointed layer only computes gradients if one of its inputs requires them.
        adapted.enable_input_require_grads()
    return adapted


class SeesLambda(Protocol):
    """What the trainer does with λ besides the loss."""

    def show(self, batch: Mapping[str, Tensor], layout: Layout) -> None:
        """Shows a batch's λ to the policy's adapter."""

    def kept(self, *, uniform: bool = False) -> contextlib.AbstractContextManager[None]:
        """Context after which the adapter's λ is what it was."""


class _NoLambda:
    """A policy that does not depend on λ."""

    def show(self, batch: Mapping[str, Tensor], layout: Layout) -> None:
        pass

    def kept(self, *, uniform: bool = False) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def batch_lambda(model: Any, dimensions: Sequence[str]) -> SeesLambda:
    """Returns what shows λ, over the records' `dimensions`, to the policy's adapter.

    Raises:
        ConfigError: If a λ-adapter has other dimensions.
    """
    if not any(map(_depends_on_lambda, peft_configs(model).values())):
        return _NoLambda()
    from .lambda_lora.batches import BatchLambda

    return BatchLambda(model, dimensions)


def _depends_on_lambda(peft_config: Any) -> bool:
    return getattr(peft_config, "peft_type", None) == "LAMBDA_LORA"
