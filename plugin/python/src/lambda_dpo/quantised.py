"""4-bit weights of bitsandbytes on the CPU, which must stay in a form that has gradients."""

from __future__ import annotations

from torch import nn

from .errors import ConfigError


def keep_gradients(model: nn.Module) -> None:
    """Keeps bitsandbytes from packing a model's 4-bit weights for inference.

    On processors with AVX512-BF16 its layers repack themselves at the first forward in evaluation mode, such as that of
    the reference. From then on they compute in bfloat16 and pass no gradient to their inputs, in training too.

    Raises:
        ConfigError: If it has already happened.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ConfigError(
                f"bitsandbytes has packed the 4-bit weights of `{name}` for inference on the CPU, where they pass on "
                "no gradients: load the model again, and train it before it is evaluated."
            )
        module.support_avx512bf16_for_cpu = False
