"""Replaces parts of LLaMA-Factory during a λ-DPO run. All names are checked before the first one is replaced."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ..config import ListwiseOptions
from ..errors import ConfigError
from .keys import PREF_LOSS, AdapterKeys

VERSION = "0.9.5"

#: Names that are replaced or called, by module; for functions, with the parameters that they must have.
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "llamafactory.train.tuner": {
        "run_exp": ("args", "callbacks"),
        "run_dpo": ("model_args", "data_args", "training_args", "finetuning_args", "callbacks"),
        "LogCallback": (),
    },
    "llamafactory.launcher": {"launch": ()},
    "llamafactory.hparams": {"read_args": ("args",)},
    "llamafactory.hparams.finetuning_args": {"RLHFArguments": (), "FinetuningArguments": ()},
    "llamafactory.data": {
        "get_dataset": ("template", "model_args", "data_args", "training_args", "stage", "tokenizer"),
        "get_template_and_fix_tokenizer": ("tokenizer", "data_args"),
    },
    "llamafactory.data.loader": {
        "PairwiseDatasetProcessor": (),
        "get_dataset_list": ("dataset_names", "dataset_dir"),
    },
    "llamafactory.data.converter": {
        "DATASET_CONVERTERS": (),
        "DatasetConverter": (),
        "register_dataset_converter": ("name", "dataset_converter"),
    },
    "llamafactory.data.processor.processor_utils": {
        "DatasetProcessor": (),
        "infer_seqlen": ("source_len", "target_len", "cutoff_len"),
    },
    "llamafactory.extras.ploting": {"plot_loss": ("save_dictionary", "keys")},
    "llamafactory.extras.misc": {"is_env_enabled": ("env_var",)},
    "llamafactory.model": {
        "load_model": ("tokenizer", "model_args", "finetuning_args", "is_trainable"),
        "load_tokenizer": ("model_args",),
    },
    "llamafactory.model.adapter": {"LoraConfig": ()},
    "llamafactory.train.callbacks": {"LogCallback": ()},
    "llamafactory.train.trainer_utils": {
        "create_custom_optimizer": ("model", "training_args", "finetuning_args"),
        "create_custom_scheduler": ("training_args", "num_training_steps", "optimizer"),
        "create_modelcard_and_push": ("trainer", "model_args", "data_args", "training_args", "finetuning_args"),
        "create_ref_model": ("model_args", "finetuning_args"),
    },
}


def check() -> None:
    """Checks that LLaMA-Factory is installed in the supported version and has every name that is needed.

    Raises:
        ConfigError: If it is not, or has not; nothing has been replaced then.
    """
    try:
        found = importlib.metadata.version("llamafactory")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"LLaMA-Factory is not installed: pip install llamafactory=={VERSION}.") from None
    if found != VERSION:
        raise ConfigError(f"lambda-dpo-factory works with LLaMA-Factory {VERSION}, but this is {found}.")
    for module_name, names in _NAMES.items():
        module = importlib.import_module(module_name)
        for name, parameters in names.items():
            value = getattr(module, name, None)
            if value is None:
                raise ConfigError(f"LLaMA-Factory {found} has no {module_name}.{name}: install an unchanged {VERSION}.")
            if parameters and not set(parameters) <= set(inspect.signature(value).parameters):
                raise ConfigError(
                    f"{module_name}.{name} of LLaMA-Factory {found} lacks one of the parameters "
                    f"{', '.join(parameters)}: install an unchanged {VERSION}."
                )


def install_launcher(worker: Path) -> None:
    """Makes torchrun start `worker` instead of LLaMA-Factory's own launcher file."""
    launcher = importlib.import_module("llamafactory.launcher")
    launcher.__file__ = str(worker)


def install(options: Callable[..., ListwiseOptions], adapter: AdapterKeys) -> None:
    """Turns the DPO stage of this process into λ-DPO; `options` makes the options."""
    from llamafactory.data import converter, loader
    from llamafactory.hparams import finetuning_args
    from llamafactory.train import tuner

    from .data import CONVERTERS, ListwiseDatasetProcessor
    from .workflow import MetricsLogCallback, run_lambda_dpo

    _allow_pref_loss(finetuning_args)
    for formatting, records in CONVERTERS.items():
        convert_options = dataclasses.replace(options().convert_options(), format=formatting)
        converter.register_dataset_converter(formatting, functools.partial(records, options=convert_options))
    loader.PairwiseDatasetProcessor = ListwiseDatasetProcessor
    loader.get_dataset_list = _ranked(loader.get_dataset_list, CONVERTERS)
    tuner.LogCallback = MetricsLogCallback
    tuner.run_dpo = functools.partial(run_lambda_dpo, options, adapter)


def install_lambda_adapter(adapter: AdapterKeys, dimensions: Sequence[str]) -> None:
    """Makes LLaMA-Factory's LoRA a λ-adapter over the records' dimensions."""
    from llamafactory.model import adapter as model_adapter

    from ..lambda_lora.config import LambdaLoraConfig

    def configuration(**lora: Any) -> LambdaLoraConfig:
        if not adapter.has_alpha:
            lora["lora_alpha"] = None
        return LambdaLoraConfig(**lora, dimensions=list(dimensions), rank_per_dimension=adapter.rank_per_dimension)

    model_adapter.LoraConfig = configuration


def _allow_pref_loss(module: Any) -> None:
    """Adds our loss to the allowed values of `pref_loss`."""
    known = module.RLHFArguments.__annotations__["pref_loss"]
    extended = Literal[(*get_args(known), PREF_LOSS)]  # type: ignore[valid-type]
    for arguments in (module.RLHFArguments, module.FinetuningArguments):
        arguments.__dataclass_fields__["pref_loss"].type = extended
    module.RLHFArguments.__annotations__["pref_loss"] = extended


def _ranked(get_dataset_list: Callable[..., Any], formattings: Container[str]) -> Callable[..., Any]:
    """Treats rated and ranked records as a ranking, whether dataset_info.json says so or not."""

    @functools.wraps(get_dataset_list)
    def ranked(*args: Any, **kwargs: Any) -> Any:
        attributes = get_dataset_list(*args, **kwargs)
        for attribute in attributes:
            if attribute.formatting in formattings:
                attribute.ranking = True
        return attributes

    return ranked
