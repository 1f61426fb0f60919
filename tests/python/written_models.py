"""Runs the example write_adapter and the program's export on a golden model; computes logits to compare."""

import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
GOLDEN_MODELS = ROOT / "fixtures" / "golden" / "models"
FAMILIES = ["llama31", "llama2", "mistral", "qwen2", "qwen3"]


# `--workspace` reuses the dependencies that the Rust tests built.
BUILD_EXAMPLE = ["cargo", "build", "--release", "--quiet", "--workspace", "--example", "write_adapter"]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def write(family, out, *dtype):
    subprocess.run(BUILD_EXAMPLE, cwd=ROOT, check=True)
    subprocess.run([BUILT / "examples" / "write_adapter", GOLDEN_MODELS / family, out, *dtype], cwd=ROOT, check=True)
    return load_file(out / "values.safetensors")


def export(*arguments, **options):
    subprocess.run(BUILD_EXAMPLE, cwd=ROOT, check=True)
    subprocess.run([BUILT / "lambda-dpo", "export", *arguments], check=True, **options)


def logits(model, input_ids):
    with torch.no_grad():
        return model(input_ids=input_ids).logits.float()
