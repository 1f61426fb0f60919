"""The tuner of λ-adapters: PEFT's LoRA of rank R, whose columns λ scales; and how λ is set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from peft.tuners.lora import LoraModel
from torch import nn

from ..errors import ConfigError
from ..peft_configs import peft_configs
from . import weights
from .checkpoint import carry_lambda
from .config import LambdaLoraConfig
from .context import LambdaContext, Shown, other_rows
from .layer import LambdaColumns, depend_on_lambda


class LambdaLoraModel(LoraModel):
    """PEFT's tuner: adds λ-adapters to a model, and runs it."""

    def _contexts(self) -> dict[str, LambdaContext]:
        """The λ of each adapter. The first is added before PEFT has run `Module.__init__`."""
        contexts: dict[str, LambdaContext] = self.__dict__.setdefault("lambda_contexts", {})
        return contexts

    def _create_and_replace(
        self,
        lora_config: LambdaLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **others: Any,
    ) -> None:
        contexts = self._contexts()
        if adapter_name not in contexts:
            ranks = (lora_config.r, lora_config.rank_per_dimension or 0)
            contexts[adapter_name] = LambdaContext(lora_config.named_dimensions, ranks)
        plain = lora_config.as_lora()
        super()._create_and_replace(plain, adapter_name, target, target_name, parent, current_key, **others)
        layer: Any = parent.get_submodule(target_name)
        if adapter_name not in layer.lora_B or type(layer.lora_B[adapter_name]) is not nn.Linear:
            kind = type(layer.get_base_layer()).__name__
            raise ConfigError(
                f"The target `{current_key}` is a {kind}, but a λ-adapter adapts linear layers: leave it out of "
                "target_modules."
            )
        layer.scaling[adapter_name] = lora_config.scaling
        depend_on_lambda(layer, adapter_name, contexts[adapter_name])

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adds an adapter; the arguments are PEFT's."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        chosen_otherwise = (config.exclude_modules, config.layers_to_transform, config.layers_pattern)
        if isinstance(config.target_modules, str) or any(choice is not None for choice in chosen_otherwise):
            # A list of layers, which the program can read, instead of a pattern or of what narrows a list.
            config.target_modules = set(self.targeted_module_names)
            config.exclude_modules = config.layers_to_transform = config.layers_pattern = None

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter and its λ."""
        super().delete_adapter(adapter_name)
        self._contexts().pop(adapter_name, None)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: what PEFT would add up is the adapters' columns, whatever λ they belong to."""
        raise ConfigError(
            "λ-adapters cannot be added up: set a λ with set_lambda, or merge each at its λ with merge_and_unload."
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model; if it checkpoints, what it recomputes in the backward is at the λ of this forward."""
        if self.training and torch.is_grad_enabled():
            carry_lambda(self.model.modules(), self._contexts().values())
        return super().forward(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates with the model; beams and several answers to a prompt have the λ of its row."""
        with contextlib.ExitStack() as stack:
            for context in self._contexts().values():
                stack.enter_context(_generating(context, _num_rows(args, kwargs)))
            return self.model.generate(*args, **kwargs)


def _num_rows(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Number of prompts that `generate` is called with; 1 if it starts from nothing."""
    given = [*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))]
    return next((len(prompts) for prompts in given if prompts is not None), 1)


@contextlib.contextmanager
def _generating(context: LambdaContext, num_rows: int) -> Iterator[None]:
    if (shown := context.shown) is not None:
        if shown.num_tokens > 1:
            raise ConfigError(
                "λ is set for each token, which is for packed rows: set one for each row before you generate."
            )
        if shown.num_rows not in (1, num_rows):
            raise other_rows(shown.num_rows, num_rows)
    before, context.generating = context.generating, num_rows
    try:
        yield
    finally:
        context.generating = before


class LambdaSetting(contextlib.AbstractContextManager["LambdaSetting"]):
    """What `set_lambda` returns: used with `with`, λ is what it was before again at the end."""

    def __init__(self, before: dict[LambdaContext, Shown | None]) -> None:
        self._before = before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for context, shown in self._before.items():
            context.shown = shown


def active_contexts(model: nn.Module) -> list[LambdaContext]:
    """The λ of the adapters that are active in a model, however it is wrapped.

    Raises:
        ConfigError: If there is none.
    """
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "lora_B")]
    matrices = [layer.lora_B[name] for layer in layers for name in layer.active_adapters if name in layer.lora_B]
    found = {matrix.context for matrix in matrices if isinstance(matrix, LambdaColumns)}
    if found:
        return list(found)
    configs = list(peft_configs(model).values())
    if configs:
        kind = getattr(configs[0].peft_type, "value", configs[0].peft_type)
        raise ConfigError(
            f"The adapter's peft_type is {kind}, not LAMBDA_LORA, so it has no λ: load a λ-adapter first."
        )
    raise ConfigError("The model has no λ-adapter, so it has no λ: load one with PeftModel.from_pretrained first.")


def set_lambda(model: nn.Module, given: weights.Given | None = None, /, **named: float) -> LambdaSetting:
    """Sets the λ of a model's adapter until it is set again or, used with `with`, until the end of the block.

    Args:
        model: a model with a λ-adapter, wrapped or not; of a `PeftModel` this is also the method `set_lambda`.
        given: one λ for a whole batch: weights by name, or as text, as in "helpfulness=0.7"; a list of them, one for
            each row; or a tensor of weights `[M]`, `[rows, M]`, or `[rows, T, M]`, one for each token of packed rows.
        named: weights of one λ by name. Those that are left out share the rest equally.

    Raises:
        ConfigError: If the model has no λ-adapter, or λ is invalid.
    """
    contexts = active_contexts(model)
    if any(getattr(module, "merged_columns", None) for module in model.modules()):
        raise ConfigError("The adapter is merged at one λ: call unmerge_adapter() before you set another.")
    if given is not None and named:
        raise ConfigError("λ is given twice, by name and as a value: leave one out.")
    value: weights.Given = named if given is None else given
    shown = {context: Shown(weights.tensor(value, context.dimensions)) for context in contexts}
    setting = LambdaSetting({context: context.shown for context in contexts})
    for context in contexts:
        context.shown = shown[context]
    return setting
