"""What the example write_adapter writes for a golden model, and the logits of a model for comparing."""

import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
GOLDEN_MODELS = ROOT / "fixtures" / "golden" / "models"
FAMILIES = ["llama31", "llama2", "mistral", "qwen2", "qwen3"]


def write(family, out, *dtype):
    command = ["cargo", "run", "-q", "-p", "lambda-dpo", "--example", "write_adapter", "--"]
    subprocess.run([*command, GOLDEN_MODELS / family, out, *dtype], cwd=ROOT, check=True)
    return load_file(out / "values.safetensors")


def logits(model, input_ids):
    with torch.no_grad():
        return model(input_ids=input_ids).logits.float()
