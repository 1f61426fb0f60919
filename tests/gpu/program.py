"""Checks of the program on a device: training with evaluation, resuming, dropout, dtypes and generation.

Each is compared with the same on the CPU, or with what must be equal on the device itself. The model has grouped
key-value heads, so that float32 shows that libtorch finds a kernel for them.
"""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = HERE / "demo"
# Relative. A loss is a sum of some hundred float32 log-probs, whose order differs between the kernels of two devices, and
# so between those of one; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 1e-4, 5e-2
STEPS, SAVED = 4, 2


def check_program(device: str, scratch: Path) -> None:
    """Runs every check, each of which exits with a sentence if it fails."""
    # What one check computes must not serve another.
    os.environ["LAMBDA_DPO_CACHE"] = str(scratch / "cache")
    write_config(scratch)
    training(device, scratch)
    resuming(device, scratch)
    dropout(device, scratch)
    dtypes(device, scratch)
    generation(device)


def write_config(scratch: Path) -> None:
    text = f"""
stage = "lambda_dpo"
output_dir = "run"
[model]
path = {json.dumps(str(DEMO / "sft-model"))}
[data]
records = [{json.dumps(str(DEMO / "records.jsonl"))}]
max_samples = 20
eval_fraction = 0.2
cutoff_len = 128
[reference]
cache = false
[train]
learning_rate = 1e-3
max_steps = {STEPS}
per_device_train_batch_size = 2
gradient_accumulation_steps = 2
eval_steps = {SAVED}
save_steps = {SAVED}
"""
    (scratch / "run.toml").write_text(text)


def run(*arguments: object) -> str:
    answer = subprocess.run([HERE / "bin" / "lambda-dpo", *map(str, arguments)], capture_output=True, text=True)
    if answer.returncode != 0:
        raise SystemExit(f"lambda-dpo {arguments[0]} failed: {answer.stderr.strip()}")
    return answer.stdout


def train(scratch: Path, name: str, device: str, *overrides: str) -> list[dict]:
    """Trains, and returns the lines of its metrics."""
    output = scratch / name
    shutil.rmtree(output, ignore_errors=True)
    run("train", scratch / "run.toml", f"output_dir={output}", f"model.device={device}", *overrides)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def difference(found: list[dict], expected: list[dict], keys: tuple[str, ...] = ("loss", "eval_loss", "grad_norm")) -> float:
    """Largest relative difference of these keys, line by line; infinite if a value is missing or not a number."""
    if [row["step"] for row in found] != [row["step"] for row in expected]:
        return math.inf
    pairs = [(one[key], other[key]) for one, other in zip(found, expected) for key in keys if key in other]
    errors = [abs(one - other) / abs(other) for one, other in pairs]
    return max(errors) if errors and all(map(math.isfinite, errors)) else math.inf


def expect(what: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise SystemExit(f"{what}: {error:.1e} apart, above {tolerance}.")
    print(f"ok: {what}: {error:.1e} apart")


def training(device: str, scratch: Path) -> None:
    expected = train(scratch, "cpu", "cpu")
    found = train(scratch, "device", device)
    if not any("eval_loss" in row for row in found):
        raise SystemExit("The run has held-out records, but no line of its metrics has an eval_loss.")
    if device != "cpu" and not all(row["peak_device_memory_bytes"] > 0 for row in found if "loss" in row):
        raise SystemExit("The metrics do not say how much memory of the device was used.")
    expect(f"training and evaluation, float32 with grouped heads, on {device} and the CPU", difference(found, expected), FLOAT32)


def resuming(device: str, scratch: Path) -> None:
    whole = train(scratch, "device", device)
    checkpoint = scratch / "device" / f"checkpoint-{SAVED}"
    resumed = train(scratch, "resumed", device, f"train.resume={checkpoint}")
    rest = [row for row in whole if row["step"] > SAVED]
    error = difference([row for row in resumed if row["step"] > SAVED], rest)
    # Kernels of a GPU add in an order of their own in each run.
    expect(f"a run resumed on {device} and one that never stopped", error, 0.0 if device == "cpu" else FLOAT32)


def dropout(device: str, scratch: Path) -> None:
    adapter = ("adapter.rank=4", "train.eval_steps=1")
    dropped = train(scratch, "dropout", device, *adapter, "adapter.dropout=0.3")
    again = train(scratch, "dropout-again", device, *adapter, "adapter.dropout=0.3", "train.gradient_checkpointing=true")
    without = train(scratch, "no-dropout", device, *adapter)
    expect(f"dropout on {device} with activations kept and recomputed", difference(dropped, again), FLOAT32)
    if not difference(dropped, without) > FLOAT32:
        raise SystemExit(f"Dropout changes nothing on {device}.")


def dtypes(device: str, scratch: Path) -> None:
    adapter = ("adapter.rank=4",)
    exact = train(scratch, "float32", device, *adapter)
    rounded = train(scratch, "bfloat16", device, *adapter, "model.dtype=bfloat16")
    losses = ("loss", "eval_loss")
    expect(f"a LoRA of a bfloat16 and a float32 model on {device}", difference(rounded, exact, losses), BFLOAT16)
    tf32 = train(scratch, "tf32", device, *adapter, "model.tf32=true")
    expect(f"a LoRA with TF32 and without on {device}", difference(tf32, exact, losses), BFLOAT16)


def generation(device: str) -> None:
    options = ("--model", DEMO / "sft-model", "--max-new-tokens", 24, "--temperature", 0)
    prompt = "Describe the otter."
    expected = run("generate", *options, "--device", "cpu", prompt)
    found = run("generate", *options, "--device", device, prompt)
    if not expected.strip() or found != expected:
        raise SystemExit(f"Greedy decoding on {device} continues with {found!r}, on the CPU with {expected!r}.")
    print(f"ok: greedy decoding on {device} and the CPU: the same {len(found)} characters")
