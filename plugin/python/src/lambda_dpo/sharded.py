"""Frozen reference models with sharded weights: DeepSpeed's ZeRO and FSDP."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


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
