"""Two processes train as one: data-parallel, and with gradients of sharded weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_model, records

WORKER = Path(__file__).with_name("worker.py")


def run(folder, num_processes, environment=None, **settings):
    """Runs worker.py in each process and returns what the first one wrote."""
    folder.mkdir()
    settings["out"] = str(folder / "state.json")
    settings["args"] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "no",
        "per_device_eval_batch_size": 2,
        **settings["args"],
    }
    settings |= {"records": records(12), "eval_records": records(5, 12)}
    (folder / "settings.json").write_text(json.dumps(settings))
    cache = {"LAMBDA_DPO_CACHE": str(folder / "cache")}
    launch(num_processes, WORKER, folder / "settings.json", **cache, **(environment or {}))
    return json.loads((folder / "state.json").read_text())


def launch(num_processes, *command, **environment):
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), "--standalone"]
    done = subprocess.run(
        [sys.executable, *(torchrun if num_processes > 1 else []), *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[1])} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_same(folder, one, several):
    """Compares logs, and the weights in the folders `one` and `several`."""
    for ours, theirs in zip(several["log"], one["log"], strict=True):
        # The order of rewards that only differ in their last bits is arbitrary.
        is_tied = abs(theirs.get("rewards/margins", 1)) < 1e-6
        for name in theirs:
            if is_tied and name == "rewards/accuracies":
                continue
            if name.startswith(("loss", "eval_loss", "rewards", "eval_rewards", "lambda", "logps/ratio", "eval_logps/ratio", "grad_norm")):
                assert abs(ours[name] - theirs[name]) < 1e-5 * max(1, abs(theirs[name])), (name, ours[name], theirs[name])
    expected = weights(folder / "one")
    found = weights(folder / "several")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["full", "lora", "lambda", "precomputed", "lambda, precomputed"])
def test_two_processes_train_as_one(tmp_path, kind):
    model = make_model(tmp_path / "model")
    extra = {"precompute_ref_log_probs": True} if kind.endswith("precomputed") else {}
    settings = {"model": model, "adapter": kind.partition(",")[0]}
    one = run(tmp_path / "one", 1, args={"per_device_train_batch_size": 6, **extra}, **settings)
    two = run(
        tmp_path / "several",
        2,
        args={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, **extra},
        **settings,
    )
    assert (one["processes"], two["processes"]) == (1, 2)
    assert_same(tmp_path, one, two)


@pytest.mark.parametrize("kind", ["full", "lora", "lambda"])
def test_sharded_weights_are_gathered(tmp_path, kind):
    """FSDP gathers the head, of which each process holds a shard, around the fused loss, and shards its gradient."""
    model = make_model(tmp_path / "model")
    launch(2, WORKER.with_name("sharded_worker.py"), model, kind)
