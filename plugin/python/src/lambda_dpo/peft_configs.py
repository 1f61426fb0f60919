"""The adapters that a model has."""

from __future__ import annotations

from typing import Any


def peft_configs(model: Any) -> dict[str, Any]:
    """Returns PEFT's configurations of the adapters in a model, wrapped or injected, by name.

    `model.peft_config` alone does not tell: older PEFT (0.18) leaves it in models whose adapter it merged or unloaded.
    """
    found: dict[str, Any] = getattr(model, "peft_config", {})
    if not found:
        return {}
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    # A `PeftModel` need not have layers: with prompt tuning it has none.
    is_adapted = isinstance(model, PeftModel) or any(isinstance(layer, BaseTunerLayer) for layer in model.modules())
    return found if is_adapted else {}
