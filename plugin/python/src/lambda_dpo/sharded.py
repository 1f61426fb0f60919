"""What DeepSpeed's ZeRO and FSDP need besides Trainer's own: frozen reference models, and a model saved as a whole."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

from torch import nn


def is_sharded(args: Any) -> bool:
    """Whether the training arguments, or the launcher, ask for an engine that shards weights."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    return bool(args.fsdp) or by_launcher or is_deepspeed_zero3_enabled()


@contextlib.contextmanager
def whole_weights(accelerator: Any) -> Iterator[None]:
    """Context in which Trainer saves FSDP's weights as a whole; if its checkpoints are sharded, it would save none."""
    from torch.distributed.fsdp import StateDictType

    plugin = accelerator.state.fsdp_plugin
    before = plugin.state_dict_type
    plugin.state_dict_type = StateDictType.FULL_STATE_DICT
    try:
        yield
    finally:
        plugin.state_dict_type = before


def deepspeed_reference(model: nn.Module, accelerator: Any) -> nn.Module:
    """Prepares the reference for DeepSpeed: sharded like the policy with ZeRO-3, else whole in each process."""
    import deepspeed

    config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    # The reference has no optimiser state and no gradients, which is what ZeRO-1 and ZeRO-2 shard.
    for key in ("optimizer", "scheduler"):
        config.pop(key, None)
    if config["zero_optimization"]["stage"] != 3:
        config["zero_optimization"] = {"stage": 0}
    engine: nn.Module = deepspeed.initialize(model=model, config=config)[0]
    engine.eval()
    return engine


def fsdp_reference(model: nn.Module, accelerator: Any) -> nn.Module:
    """Prepares the reference for FSDP, sharded with the settings of the policy."""
    if accelerator.is_fsdp2:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        prepared: nn.Module = fsdp2_prepare_model(accelerator, model)
    else:
        from torch.distributed.fsdp import FullyShardedDataParallel

        plugin = accelerator.state.fsdp_plugin
        plugin.set_auto_wrap_policy(model)
        prepared = FullyShardedDataParallel(
            model,
            sharding_strategy=plugin.sharding_strategy,
            cpu_offload=plugin.cpu_offload,
            auto_wrap_policy=plugin.auto_wrap_policy,
            mixed_precision=plugin.mixed_precision_policy,
            sync_module_states=plugin.sync_module_states,
            use_orig_params=plugin.use_orig_params,
            param_init_fn=plugin.param_init_fn,
            limit_all_gathers=plugin.limit_all_gathers,
            device_id=accelerator.device,
        )
    prepared.eval()
    return prepared
