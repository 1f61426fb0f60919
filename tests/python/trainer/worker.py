"""One process of a distributed run: trains; the first process writes losses, evaluations and weights."""

import json
import os
import sys
from pathlib import Path

import datasets
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig
from processes import leave
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer, LambdaLoraConfig

ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules="all-linear"),
    "lambda": LambdaLoraConfig(r=2, rank_per_dimension=3, init_lora_weights=False),
}


def main(settings):
    torch.set_num_threads(1)
    model = settings["model"]
    backend = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    args = LambdaDPOConfig(report_to=[], disable_tqdm=True, use_cpu=True, **backend, **settings["args"])
    trainer = LambdaDPOTrainer(
        model,
        ref_model=AutoModelForCausalLM.from_pretrained(model) if settings.get("ref_model") else None,
        args=args,
        train_dataset=datasets.Dataset.from_list(settings["records"]),
        eval_dataset=datasets.Dataset.from_list(settings["eval_records"]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=ADAPTERS.get(settings.get("adapter")),
    )
    trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero():
        state = {
            "log": trainer.state.log_history,
            "processes": trainer.accelerator.num_processes,
            "type": trainer.accelerator.distributed_type.value,
        }
        Path(settings["out"]).write_text(json.dumps(state))
    if trainer.accelerator.distributed_type != DistributedType.NO:
        leave()


main(json.loads(Path(sys.argv[1]).read_text()))
