"""λ-weighted listwise preference optimisation of language models, in PyTorch.

Functions on tensors and records need only torch; `LambdaDPOTrainer` also needs `transformers`, `accelerate` and
`datasets`, and λ-adapters (`LambdaLoraConfig`, `set_lambda`) need `peft`, which knows them once this package is imported.
"""

from typing import TYPE_CHECKING, Any

import torch as _torch  # noqa: F401  Imported before the library, which uses the libtorch that torch loads.

from ._peft_import import register_with_peft as _register_with_peft
from .collator import Batch, ListwiseCollator, with_lambda
from .errors import ConfigError, InvalidInputError, LibraryError, PluginError
from .loss import LossOutput, lambda_dpo_loss, sequence_log_probs
from .metrics import Totals
from .records import ConvertOptions, convert
from .schedules import LambdaSchedule
from .tokenization import SampleTokenizer

if TYPE_CHECKING:
    from .config import LambdaDPOConfig, ListwiseOptions
    from .lambda_lora.config import LambdaLoraConfig
    from .lambda_lora.model import set_lambda
    from .trainer import LambdaDPOTrainer

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "ConfigError",
    "ConvertOptions",
    "InvalidInputError",
    "LambdaDPOConfig",
    "LambdaDPOTrainer",
    "LambdaLoraConfig",
    "LambdaSchedule",
    "LibraryError",
    "ListwiseCollator",
    "ListwiseOptions",
    "LossOutput",
    "PluginError",
    "SampleTokenizer",
    "Totals",
    "convert",
    "lambda_dpo_loss",
    "sequence_log_probs",
    "set_lambda",
    "with_lambda",
]

_LAZY = {
    "LambdaDPOConfig": "config",
    "LambdaDPOTrainer": "trainer",
    "LambdaLoraConfig": "lambda_lora.config",
    "ListwiseOptions": "config",
    "set_lambda": "lambda_lora.model",
}
_register_with_peft()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
