"""One process of a distributed run: trains; the first process writes losses, evaluations, weights and gradients."""

import json
import os
import sys
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from processes import leave, reduce_by_sums
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer, LambdaLoraConfig

ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules="all-linear"),
    "lambda": LambdaLoraConfig(r=2, rank_per_dimension=3, init_lora_weights=False),
}


class FirstGradients(TrainerCallback):
    """Gathers the gradients of the first step, before they are clipped."""

    def __init__(self, trainer):
        self.trainer, self.gradients = trainer, {}

    def on_train_begin(self, args, state, control, **kwargs):
        reduce_by_sums(self.trainer.model)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step > 0 or self.gradients:
            return
        # DeepSpeed clips and steps in one; the others have the accelerator clip.
        owner = self.trainer.model_wrapped if self.trainer.is_deepspeed_enabled else self.trainer.accelerator
        name = "step" if self.trainer.is_deepspeed_enabled else "clip_grad_norm_"
        original = getattr(owner, name)

        def gathering(*given, **named):
            setattr(owner, name, original)
            self.gradients = {
                parameter: gradient.clone()
                for parameter, weight in self.trainer.model.named_parameters()
                if weight.requires_grad and (gradient := whole_gradient(weight)) is not None
            }
            return original(*given, **named)

        setattr(owner, name, gathering)


def whole_gradient(weight):
    """The gradient of a weight, of which this process may hold a shard."""
    if hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_grad

        return safe_get_full_grad(weight)
    gradient = weight.grad
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def main(settings):
    torch.set_num_threads(1)
    model, engine = settings["model"], settings.get("engine")
    backend = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    # Asked for the CPU, Accelerate takes no DeepSpeed; without a GPU it takes the CPU.
    is_deepspeed = engine is not None and engine.startswith("zero")
    if is_deepspeed:
        from deepspeed import ops

        # DeepSpeed would compile this one, which only inference uses.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    args = LambdaDPOConfig(report_to=[], disable_tqdm=True, use_cpu=not is_deepspeed, **backend, **settings["args"])
    if engine == "fsdp2":
        # Accelerate shards over several GPUs, not over several CPUs.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = LambdaDPOTrainer(
        model,
        ref_model=AutoModelForCausalLM.from_pretrained(model) if settings.get("ref_model") else None,
        args=args,
        train_dataset=datasets.Dataset.from_list(settings["records"]),
        eval_dataset=datasets.Dataset.from_list(settings["eval_records"]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=ADAPTERS.get(settings.get("adapter")),
    )
    first = FirstGradients(trainer)
    trainer.add_callback(first)
    trainer.train(resume_from_checkpoint=settings.get("resume"))
    trainer.save_model()
    if trainer.is_world_process_zero():
        state = {
            "log": trainer.state.log_history,
            "processes": trainer.accelerator.num_processes,
            "type": trainer.accelerator.distributed_type.value,
        }
        Path(settings["out"]).write_text(json.dumps(state))
        torch.save(first.gradients, Path(settings["out"]).with_name("gradients.pt"))
    if trainer.accelerator.distributed_type != DistributedType.NO:
        leave()


main(json.loads(Path(sys.argv[1]).read_text()))
