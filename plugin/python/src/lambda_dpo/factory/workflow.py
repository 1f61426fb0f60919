"""λ-DPO run in LLaMA-Factory: its `run_dpo` with our trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.data import loader as data_loader
from llamafactory.extras.ploting import plot_loss
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.callbacks import LogCallback
from llamafactory.train.trainer_utils import (
    create_custom_optimizer,
    create_custom_scheduler,
    create_modelcard_and_push,
    create_ref_model,
)

from ..config import ListwiseOptions
from ..errors import ConfigError
from ..peft_configs import peft_configs
from ..trainer import LambdaDPOTrainer
from .data import CONVERTERS
from .hooks import install_lambda_adapter
from .keys import AdapterKeys


class FactoryTrainer(LambdaDPOTrainer):
    """`LambdaDPOTrainer` with LLaMA-Factory's optimisers, schedulers and sampler."""

    optimizer: Any

    def __init__(self, *, finetuning_args: Any, **kwargs: Any) -> None:
        self.finetuning_args = finetuning_args
        super().__init__(**kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = create_custom_optimizer(self.model, self.args, self.finetuning_args)
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        create_custom_scheduler(self.args, num_training_steps, optimizer)
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        if self.finetuning_args.disable_shuffling:
            return torch.utils.data.SequentialSampler(self.train_dataset)
        return super()._get_train_sampler(*args, **kwargs)


class MetricsLogCallback(LogCallback):
    """LLaMA-Factory's log callback, which also writes our metrics to `trainer_log.jsonl`."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ours = {key: value for key, value in state.log_history[-1].items() if "/" in key or key.endswith("nll_loss")}
        # Lines are written later, by another thread, so each write carries its own metrics.
        self._write_log = functools.partial(self._write_metrics, ours)
        super().on_log(args, state, control, **kwargs)

    def _write_metrics(self, ours: dict[str, float], output_dir: str, logs: dict[str, Any]) -> None:
        LogCallback._write_log(self, output_dir, logs | ours)


def run_lambda_dpo(
    make_options: Callable[..., ListwiseOptions],
    adapter: AdapterKeys,
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    callbacks: list[Any] | None = None,
) -> None:
    """Trains and evaluates according to the arguments.

    Raises:
        ConfigError: If the arguments or records do not allow it.
    """
    options = make_options(
        beta=finetuning_args.pref_beta,
        max_length=data_args.cutoff_len,
        simpo_gamma=_simpo_gamma(finetuning_args),
        sft_weight=finetuning_args.pref_ftx,
    )
    _refuse(data_args, training_args, finetuning_args, options)
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    dataset_module = _datasets(template, model_args, data_args, training_args, tokenizer_module, options)
    if adapter.depends_on_lambda:
        install_lambda_adapter(adapter, options.dimensions or [])
    model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    _refuse_plain_lora(adapter, model)
    trainer = FactoryTrainer(
        model=model,
        ref_model=_reference_model(model_args, training_args, finetuning_args, options),
        args=training_args,
        options=options,
        finetuning_args=finetuning_args,
        processing_class=tokenizer,
        callbacks=callbacks,
        **dataset_module,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
        if trainer.is_world_process_zero() and finetuning_args.plot_loss:
            plot_loss(training_args.output_dir, keys=_plotted(trainer))
    if training_args.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval")
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    create_modelcard_and_push(trainer, model_args, data_args, training_args, finetuning_args)


def _simpo_gamma(finetuning_args: Any) -> float | None:
    """The key `simpo_gamma`; None for its default, which is there whatever the loss."""
    default = type(finetuning_args).__dataclass_fields__["simpo_gamma"].default
    return None if finetuning_args.simpo_gamma == default else finetuning_args.simpo_gamma


def _refuse(data_args: Any, training_args: Any, finetuning_args: Any, options: ListwiseOptions) -> None:
    for name in (data_args.dataset or []) + (data_args.eval_dataset or []):
        (attributes,) = data_loader.get_dataset_list([name], data_args.dataset_dir)
        if attributes.formatting not in CONVERTERS:
            raise ConfigError(
                f"The dataset {name} has the formatting {attributes.formatting}, but λ-DPO needs rated or ranked responses: "
                f"use one with `formatting: {' or '.join(CONVERTERS)}` in dataset_info.json."
            )
        if attributes.images or attributes.videos or attributes.audios:
            raise ConfigError(
                f"The dataset {name} has images, videos or audio, but λ-DPO only supports text: use another dataset."
            )
    if data_args.streaming:
        raise ConfigError("λ-DPO needs to count its records: set `streaming` to false.")
    zero = {
        "pref_bco_weight": finetuning_args.pref_bco_weight,
        "ld_alpha": finetuning_args.ld_alpha,
        "include_effective_tokens_per_second": finetuning_args.include_effective_tokens_per_second,
    }
    for name, value in zero.items():
        if value:
            raise ConfigError(f"`{name}` has no effect with `pref_loss: lambda_dpo`: leave it out.")
    if finetuning_args.ref_model is not None and not options.has_reference:
        reason = "`lambda_reference_free` is set" if options.reference_free else f"{options.loss_type} has no reference"
        raise ConfigError(f"`ref_model` has no effect, because {reason}: leave it out.")
    needs_reference = options.has_reference and finetuning_args.ref_model is None
    if not training_args.do_train and finetuning_args.finetuning_type == "full" and needs_reference:
        raise ConfigError(
            "Evaluating a fully fine-tuned model needs `ref_model`: set it to the model that the training started from."
        )


def _refuse_plain_lora(adapter: AdapterKeys, model: Any) -> None:
    for config in peft_configs(model).values() if adapter.depends_on_lambda else ():
        if config.peft_type != "LAMBDA_LORA":
            raise ConfigError(
                f"`lambda_adapter` is set, but the adapter of `adapter_name_or_path` is a {config.peft_type.value}, which "
                "has no λ: name a λ-adapter, or leave the key out."
            )


def _datasets(
    template: Any,
    model_args: Any,
    data_args: Any,
    training_args: Any,
    tokenizer_module: dict[str, Any],
    options: ListwiseOptions,
) -> dict[str, Any]:
    """Loads LLaMA-Factory's datasets; the record index of a row is its position."""
    unusable = ConfigError(
        f"None of the records of {', '.join(data_args.dataset or data_args.eval_dataset)} can be used: each needs at "
        "least two responses rated or ranked in the same dimension."
    )
    try:
        module = get_dataset(template, model_args, data_args, training_args, stage="rm", **tokenizer_module)
    except RuntimeError as error:
        if "Cannot find valid samples" in str(error):
            raise unusable from None
        raise
    parts = [part for dataset in module.values() for part in (dataset.values() if isinstance(dataset, dict) else [dataset])]
    if not parts or any(len(part) == 0 for part in parts):
        raise unusable
    options.dimensions = list(parts[0][0]["dimensions"])
    return {
        name: {key: _numbered(part, options) for key, part in dataset.items()}
        if isinstance(dataset, dict)
        else _numbered(dataset, options)
        for name, dataset in module.items()
    }


def _numbered(dataset: Any, options: ListwiseOptions) -> Any:
    for names in dataset["dimensions"]:
        if list(names) != options.dimensions:
            raise ConfigError(
                f"Some records are rated in {', '.join(names)}, others in {', '.join(options.dimensions or [])}: set "
                "`lambda_dimensions` to the dimensions to use."
            )
    return dataset.remove_columns("dimensions").add_column("record", list(range(len(dataset))))


def _reference_model(
    model_args: Any, training_args: Any, finetuning_args: Any, options: ListwiseOptions
) -> Any:
    """Loads the model that `ref_model` names or, with full fine-tuning, the policy's weights a second time."""
    if not options.has_reference:
        return None
    if finetuning_args.ref_model is None and options.precompute_ref_log_probs:
        return None
    return create_ref_model(model_args, finetuning_args)


def _plotted(trainer: LambdaDPOTrainer) -> list[str]:
    losses = [f"loss/{name}" for name in trainer.dimensions]
    if isinstance(trainer.eval_dataset, dict):
        evaluated = [f"eval_{name}_loss" for name in trainer.eval_dataset]
    else:
        evaluated = ["eval_loss"] if trainer.eval_dataset is not None else []
    return ["loss", *losses, "rewards/accuracies", "rewards/margins", *evaluated]
