"""Tiny models with the chat formats of Llama 3 and Qwen2, records for them, and runs of the program to compare with."""

import json
import os
import subprocess
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "fixtures" / "demo"
PROGRAM = Path(os.environ.get("LAMBDA_DPO_PROGRAM", ROOT / "target" / "release" / "lambda-dpo"))
DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]

#: Configuration class, special tokens and chat template by family; the templates render the same text as
#: LLaMA-Factory's `llama3` and `qwen`.
_FAMILIES = {
    "llama3": (
        LlamaConfig,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "qwen": (
        Qwen2Config,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
        "assistant.<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
}


def make_model(folder, family="llama3", seed=0):
    """Writes a model with random weights and its tokenizer; returns the folder as text."""
    config_class, special_tokens, template = _FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "sft-model")
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": special_tokens})
    tokenizer.add_special_tokens(
        {"eos_token": special_tokens[-1], "pad_token": special_tokens[0], "bos_token": special_tokens[0]}
    )
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)  # Larger than usual, so that attention and its masks matter.
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Transformers splits text according to the model's family, whatever tokenizer.json says: make the file agree.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return str(folder)


def records(count=12, skip=0):
    """Records of the demo with two to four responses, some with missing ratings."""
    lines = (DEMO / "records.jsonl").read_text().splitlines()[skip : skip + count]
    return [json.loads(line) for line in lines]


def pairs(count=12, skip=0):
    """Pairs of the first two answers of records of the demo."""
    rows = records(count, skip)
    answers = [[completion["response"] for completion in row["completions"][:2]] for row in rows]
    return [
        {"prompt": row["instruction"], "chosen": chosen, "rejected": rejected}
        for row, (chosen, rejected) in zip(rows, answers, strict=True)
    ]


def rated(pairs):
    """Pairs as rows with ratings, in one dimension."""
    answers = [[row["chosen"], row["rejected"]] for row in pairs]
    return [
        {"prompt": row["prompt"], "completions": both, "ratings": {"preference": [2, 1]}}
        for row, both in zip(pairs, answers, strict=True)
    ]


def host_losses(folder, model, rows, **options):
    """Losses of the program's own training, with all records in each step."""
    return [line["loss"] for line in host_metrics(folder, model, rows, **options)]


def host_metrics(folder, model, rows, *, steps, learning_rate, lora_rank=None, stage="lambda_dpo", **sections):
    """Metrics of each step of the program's own training, with all records in it; `sections` is TOML by name."""
    run = _trained_by_host(folder, model, rows, steps, learning_rate, lora_rank, stage, **sections)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def host_adapter(folder, model, rows, lora_rank=None, **sections):
    """Folder of the adapter that the program's training starts from, written by a run with learning rate 0."""
    return str(_trained_by_host(folder, model, rows, 1, 0.0, lora_rank, **sections) / "adapter")


def _trained_by_host(
    folder, model, rows, steps, learning_rate, lora_rank, stage="lambda_dpo", data="", loss="", **sections
):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if lora_rank:
        sections["adapter"] = f"rank = {lora_rank}\nalpha = {2 * lora_rank}"
    others = "\n".join(f"[{name}]\n{section}" for name, section in sections.items())
    (folder / "run.toml").write_text(
        f"""stage = "{stage}"
output_dir = "out"
seed = 42
[model]
path = "{model}"
device = "cpu"
{others}
[data]
records = ["records.jsonl"]
{data}
[loss]
{loss}
[train]
max_steps = {steps}
learning_rate = {learning_rate}
lr_scheduler_type = "constant"
per_device_train_batch_size = {len(rows)}
save_steps = 0
"""
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LAMBDA_DPO_CACHE": str(folder / "cache")}
    environment.pop("LAMBDA_DPO_PLUGIN", None)
    subprocess.run([PROGRAM, "train", folder / "run.toml"], check=True, env=environment, capture_output=True)
    return folder / "out"
