"""Adapters of PEFT that do not leave the base model as it was, so that it cannot serve as the reference."""

from __future__ import annotations

from typing import Any

from .errors import ConfigError

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
