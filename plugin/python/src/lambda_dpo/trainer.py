"""`LambdaDPOTrainer`: λ-DPO, and the other objectives, on `transformers.Trainer`.

In each step, `get_batch_samples` fetches the micro-batches, draws their λ and counts the prompts that the loss is a
mean over; `compute_loss` runs the forwards of the reference and the policy; everything else is Trainer's own, including
DDP, FSDP and DeepSpeed, since the loss of a prompt depends on nothing outside it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import datasets
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from .adapters import batch_lambda, refuse_moved_reference, with_adapter
from .collator import Batch, ListwiseCollator, num_contributing, with_lambda
from .config import LambdaDPOConfig, ListwiseOptions
from .errors import ConfigError
from .loss import LossOutput, lambda_dpo_loss, sequence_log_probs
from .metrics import Totals
from .peft_configs import peft_configs
from .policy import Policy, plan
from .preparation import Preparation
from .quantised import keep_gradients
from .reference import Entries, ReferenceCache, by_length, model_key, sample_key, sequence_sums
from .sharded import deepspeed_reference, fsdp_reference, is_sharded, whole_weights

logger = logging.get_logger(__name__)

Datasets: TypeAlias = "datasets.Dataset | dict[str, datasets.Dataset]"


class LambdaDPOTrainer(Trainer):
    """Trains a causal language model by λ-DPO.

    Args:
        model: the policy, or its name or folder.
        ref_model: the reference; None means the initial policy: with PEFT, the model with its adapter disabled; with
            full fine-tuning, a copy of the model (no copy with `precompute_ref_log_probs`). An adapter that changes the
            base itself (PiSSA, OLoRA, …; trained biases) needs one. The objectives `simpo` and `orpo` have no reference.
        args: a `LambdaDPOConfig`.
        data_collator: None makes a `ListwiseCollator` from the options.
        train_dataset, eval_dataset: UltraFeedback's records, rows with `prompt`, `completions` and `ratings`, TRL's
            pairs with `chosen`, `rejected` and `prompt`, which may be implicit, rows with `prompt`, `responses` and
            `rankings` (`data_format="rankings"`), or tokenised samples (`tokenization.COLUMNS`; the option `dimensions`
            then names the rows of `pi_target`). A pair is N = 2 responses with the target (1, 0) in one dimension,
            `preference`, or in each of those that the option `dimensions` names.
        processing_class: the tokenizer; None loads the model's.
        peft_config: configuration of an adapter to add to the policy. A `LambdaLoraConfig` adds a λ-adapter, to which
            each batch's λ is shown, by token in packed rows; without `dimensions`, it has those of the records.

    Raises:
        ConfigError: If options contradict each other or the model.
        LibraryError: If the library is missing, or was built for another version of torch.
    """

    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: str | PreTrainedModel | nn.Module,
        ref_model: PreTrainedModel | nn.Module | None = None,
        args: Any = None,
        data_collator: Callable[..., dict[str, Tensor]] | None = None,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: Datasets | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        options: ListwiseOptions | None = None,
    ) -> None:
        args = args if args is not None else LambdaDPOConfig(output_dir="lambda-dpo")
        if options is None:
            if not isinstance(args, ListwiseOptions):
                raise ConfigError(f"args is a {type(args).__name__}, but it must be a LambdaDPOConfig.")
            options = args
        self.options = options
        _refuse_data_parallel(model, args)
        model = _loaded(model, args)
        keep_gradients(model)
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path)
        self._prepared = Preparation(options, processing_class)
        train_dataset, eval_dataset = self._prepared(train_dataset), self._prepared(eval_dataset)
        self.dimensions: list[str] = self._prepared.dimensions
        if peft_config is not None:
            set_seed(args.seed)  # The adapter's random weights are drawn before Trainer sets the seed.
            model = with_adapter(model, peft_config, self.dimensions, args)
        if options.disable_dropout:
            for policy in (model, ref_model):
                _disable_dropout(policy)
        self.lambda_adapter = batch_lambda(model, self.dimensions)
        self.schedule = options.schedule(self.dimensions)
        self._is_sharded = is_sharded(args)
        # If the model is sharded, some processes may not have loaded weights yet, but all must make the same decision.
        with self.lambda_adapter.kept(uniform=True):
            self.policy: Policy = plan(model, options.layout, try_out=not self._is_sharded)  # type: ignore[arg-type]
        if data_collator is None:
            data_collator = ListwiseCollator(
                layout=self.policy.layout, pad_token_id=_pad_token_id(processing_class), max_tokens=options.max_tokens
            )

        self.has_adapter = bool(peft_configs(model))
        self.ref_model = self._reference_model(model, ref_model)
        has_sft_losses = options.sft_weight > 0 or options.loss_type == "orpo"
        self._totals = {
            mode: Totals(
                self.dimensions, options.beta, options.reduction == "mean", options.has_reference, has_sft_losses
            )
            for mode in ("train", "eval")
        }
        self._epoch = 0

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        beta_notice = options.objective().beta_notice(options.beta, options.reduction)  # type: ignore[arg-type]
        for notice in (*self.policy.notices, *([beta_notice] if beta_notice else [])):
            logger.warning(notice)
        self.add_callback(_EpochCallback(self))
        # compute_loss divides the loss by the number of prompts in the step; Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        if self.ref_model is not None:
            self.ref_model = self._prepared_reference(self.ref_model)

    # ---- data ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Returns a step's micro-batches with λ drawn for each prompt, and the number of prompts in the loss's mean."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        drawn: list[dict[str, Tensor]] = [with_lambda(batch, self._draw(batch)) for batch in batches]
        count = torch.tensor(sum(num_contributing(batch) for batch in drawn), dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count.to(device), "sum").cpu()
        return drawn, count.clamp(min=1)

    def _prepare_inputs(self, inputs: Mapping[str, Any]) -> Any:
        """Moves what the model reads to its device and, unlike Trainer's, nothing else."""
        return Batch(inputs).to(self.args.device)

    def _draw(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.options.lambda_per == "step":
            return self.schedule.draw_step(self.args.seed, self.state.global_step)
        return self.schedule.draw(self.args.seed, self._epoch, batch["record_indices"].tolist())

    # ---- loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the batch's share of the step's loss: the sum over its prompts, divided by the step's prompts."""
        normalizer = None
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, but the loss needs their sum.
            normalizer = float(num_items_in_batch) / self.accelerator.num_processes
        output = self._preference_loss(model, inputs, normalizer)
        if model.training:
            self._totals["train"].add(_detached(output), inputs)
        return (output.loss, {}) if return_outputs else output.loss

    def _preference_loss(self, model: nn.Module, batch: Mapping[str, Tensor], normalizer: float | None) -> LossOutput:
        reference = self._reference_log_probs(model, batch)
        outputs: list[LossOutput] = []

        def compute(**given: Tensor) -> Tensor:
            output = lambda_dpo_loss(
                batch,
                **given,
                reference_log_probs=reference,
                loss_type=self.options.loss_type,  # type: ignore[arg-type]
                beta=self.options.beta,
                reduction=self.options.reduction,  # type: ignore[arg-type]
                label_smoothing=self.options.label_smoothing,
                simpo_gamma=self.options.simpo_gamma,
                sft_weight=self.options.sft_weight,
                normalizer=normalizer,
                logits_budget_mib=self.options.logits_budget_mib,
                paper_exact=self.options.paper_exact,
            )
            outputs.append(output)
            return output.loss

        self.lambda_adapter.show(batch, self.policy.layout)
        # Use the loss that the model returned: wrappers such as DDP attach their backward hooks to the model's output.
        loss = self.policy.run(model, batch, self._mask_dtype(model), compute)
        return LossOutput(**{**vars(outputs[-1]), "loss": loss})

    def _mask_dtype(self, model: nn.Module) -> torch.dtype:
        dtype: torch.dtype = self.accelerator.unwrap_model(model).dtype
        return dtype

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Computes the loss of a held-out batch under uniform λ, or the λ of the schedule `fixed`."""
        inputs = with_lambda(self._prepare_inputs(inputs), self.schedule.evaluation())
        with torch.no_grad(), self.compute_loss_context_manager():
            output = self._preference_loss(model, inputs, None)
        self._totals["eval"].add(output, inputs, self._num_real_prompts(inputs))
        return output.loss.detach(), None, None

    def _num_real_prompts(self, batch: Mapping[str, Tensor]) -> int:
        """Number of prompts in an evaluation batch, without those that only fill up the last round of the processes."""
        num_prompts = batch["record_indices"].numel()
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return num_prompts
        return min(max(state.remainder - self.accelerator.process_index * num_prompts, 0), num_prompts)

    # ---- evaluation and metrics ----

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Runs an evaluation; a dataset of records is converted and tokenised like those passed to the trainer."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._with_reference(self._prepared(eval_dataset))
        elif not self.is_in_train:
            self.eval_dataset = self._with_reference(self.eval_dataset)
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return metrics

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Runs Trainer's loop and adds metrics that are means over prompts, however they were batched."""
        self._totals["eval"].take()
        with self.lambda_adapter.kept():
            result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        for name, value in self._means("eval").items():
            if not name.startswith("lambda/"):
                result.metrics[f"{metric_key_prefix}_{name}"] = value
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the metrics of the steps since the last log."""
        if "loss" in logs:
            means = self._means("train")
            logs |= {name: value for name, value in means.items() if name != "loss"}
        super().log(logs, *args, **kwargs)

    def _means(self, mode: str) -> dict[str, float]:
        totals = self._totals[mode]
        return totals.means(self.accelerator.reduce(totals.take().to(self.accelerator.device), "sum"))

    # ---- the reference ----

    def _reference_model(self, model: nn.Module, ref_model: nn.Module | None) -> nn.Module | None:
        if not self.options.has_reference:
            if ref_model is None:
                return None
            if self.options.reference_free:
                raise ConfigError("`reference_free` and a ref_model contradict each other: leave one of them out.")
            raise ConfigError(f"{self.options.loss_type} has no reference: leave the ref_model out.")
        if self.options.precompute_ref_log_probs and self._is_sharded:
            raise ConfigError(
                "`precompute_ref_log_probs` needs the whole model in each process, but FSDP and ZeRO-3 shard it: set "
                "it to False."
            )
        if ref_model is None and self.has_adapter:
            refuse_moved_reference(model)
        if ref_model is not None or self.has_adapter or self.options.precompute_ref_log_probs:
            return ref_model
        if self._is_sharded:
            raise ConfigError(
                "Full fine-tuning with FSDP or ZeRO-3 needs a ref_model: load the policy's weights a second time, or "
                "train an adapter, whose reference is the model without it."
            )
        return copy.deepcopy(model)

    def _prepared_reference(self, ref_model: nn.Module) -> nn.Module:
        ref_model.requires_grad_(False)
        ref_model.eval()
        if self.is_deepspeed_enabled:
            return deepspeed_reference(ref_model, self.accelerator)
        if self.is_fsdp_enabled:
            return fsdp_reference(ref_model, self.accelerator)
        prepared: nn.Module = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        return prepared

    def _reference_log_probs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """s^ref `[S]` of a batch, reduced according to the options; None without a reference."""
        if not self.options.has_reference:
            return None
        if "reference_log_probs" in batch:
            sums = batch["reference_log_probs"]
            return sums / batch["sequence_num_tokens"] if self.options.reduction == "mean" else sums
        if self.ref_model is None and not self.has_adapter:
            raise ConfigError(
                "The reference log-probs of this dataset were not computed before training: pass it as eval_dataset to "
                "the trainer."
            )
        return self._run_reference(model, batch)[1]

    def _run_reference(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Computes token `[K]` and sequence `[S]` log-probs under the reference; `model` is the policy."""
        found: list[tuple[Tensor, Tensor]] = []

        def compute(**given: Tensor) -> Tensor:
            found.append(
                sequence_log_probs(
                    batch,
                    **given,
                    reduction=self.options.reduction,  # type: ignore[arg-type]
                    logits_budget_mib=self.options.logits_budget_mib,
                )
            )
            return found[-1][1]

        if self.ref_model is not None:
            reference, without_adapter, policy = self.ref_model, contextlib.nullcontext(), self._reference_policy()
        else:
            unwrapped = self.accelerator.unwrap_model(model)
            without_adapter = unwrapped.disable_adapter() if self.has_adapter else contextlib.nullcontext()
            reference, policy = model, self.policy
        with torch.no_grad(), without_adapter:
            policy.run(reference, batch, self._mask_dtype(reference), compute)
        return found[-1]

    def _reference_policy(self) -> Policy:
        """How the reference model is run: like the policy, with its own head."""
        if self.policy.head is None:
            return self.policy
        head = self.accelerator.unwrap_model(self.ref_model).get_output_embeddings()
        return Policy(self.policy.layout, self.policy.attention, head)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; if the options ask for it, reference log-probs are computed first, before a checkpoint is loaded."""
        self.train_dataset = self._with_reference(self.train_dataset)
        self.eval_dataset = self._with_reference(self.eval_dataset)
        with self.lambda_adapter.kept():
            return super().train(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the policy, or its adapter, as a whole, even if the checkpoints are sharded."""
        gathers = self.is_fsdp_enabled and not _internal_call
        with whole_weights(self.accelerator) if gathers else contextlib.nullcontext():
            super().save_model(output_dir, _internal_call)

    def _with_reference(self, dataset: Any) -> Any:
        """Adds reference log-probs as a column, if they are to be precomputed and the dataset has none."""
        if dataset is None or not self.options.precompute_ref_log_probs:
            return dataset
        if isinstance(dataset, Mapping):
            return {name: self._with_reference(part) for name, part in dataset.items()}
        if "reference_log_probs" in dataset.column_names:
            return dataset
        if self.state.global_step > 0 and self.ref_model is None and not self.has_adapter:
            raise ConfigError(
                "The policy has already been trained and can no longer serve as its own reference: pass every "
                "eval_dataset to the trainer before training."
            )
        return dataset.add_column("reference_log_probs", self._precomputed(dataset))

    def _precomputed(self, dataset: datasets.Dataset) -> list[list[float]]:
        features = [dataset[index] for index in range(len(dataset))]
        keys = [sample_key(feature) for feature in features]
        known: Entries = {}
        cache = None
        if self.options.reference_cache:
            reference = self.ref_model if self.ref_model is not None else self.model
            cache = ReferenceCache(model_key(reference, str(self.accelerator.mixed_precision)))
            known, damage = cache.load()
            if damage:
                logger.warning(damage)
        missing = [index for index, key in enumerate(keys) if key not in known]
        logger.info(f"reference: log-probs of {len(keys) - len(missing)} of {len(keys)} samples are in the cache.")
        known |= self._computed([features[index] for index in missing])
        if cache is not None and missing and self.accelerator.is_main_process:
            cache.add({keys[index]: known[keys[index]] for index in missing})
        return [known[key] for key in keys]

    def _computed(self, features: list[dict[str, Any]]) -> Entries:
        """Computes summed log-probs of samples; each process computes some of the batches and receives all results."""
        batch_size = self.options.precompute_ref_batch_size or self.args.per_device_eval_batch_size
        batches = by_length(features, batch_size)[self.accelerator.process_index :: self.accelerator.num_processes]
        collator = ListwiseCollator(
            layout="rows" if self.policy.layout == "expanded" else self.policy.layout,
            pad_token_id=_pad_token_id(self.processing_class),
        )
        self.model.to(self.args.device)
        was_training = self.model.training
        self.model.eval()
        entries: Entries = {}
        for indices in batches:
            batch = self._prepare_inputs(collator([features[index] for index in indices]))
            with self.accelerator.autocast():
                tokens, _ = self._run_reference(self.model, batch)
            for index, sums in zip(indices, sequence_sums(tokens, batch), strict=True):
                entries[sample_key(features[index])] = sums
        self.model.train(was_training)
        shares: list[Entries] = gather_object([entries])
        return {key: values for share in shares for key, values in share.items()}


class _EpochCallback(TrainerCallback):
    """Tells the trainer which epoch begins, because λ depends on it."""

    def __init__(self, trainer: LambdaDPOTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A whole number at the start of an epoch; a fraction if the run was resumed in the middle of one.
        self.trainer._epoch = int((state.epoch or 0.0) + 1e-6)


def _refuse_data_parallel(model: Any, args: TrainingArguments) -> None:
    if isinstance(model, nn.DataParallel) or args.n_gpu > 1:
        raise ConfigError(
            "λ-DPO does not run under torch.nn.DataParallel: start one process per GPU with `torchrun` or "
            "`accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU."
        )


def _loaded(model: Any, args: TrainingArguments) -> Any:
    if isinstance(model, str):
        return AutoModelForCausalLM.from_pretrained(model, **(getattr(args, "model_init_kwargs", None) or {}))
    return model


def _disable_dropout(model: nn.Module | None) -> None:
    for module in model.modules() if model is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _pad_token_id(tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _detached(output: LossOutput) -> LossOutput:
    return LossOutput(**{**vars(output), "loss": output.loss.detach()})
