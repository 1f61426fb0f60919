"""The scripts of `make gpu-check`, as far as they run on a machine without CUDA."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that ci/gpu_check.sh gathers."""
    folder = tmp_path_factory.mktemp("gpu-check")
    for name, source in [("bin", "bench"), ("bin", "lambda-dpo"), ("lib", "liblambda_dpo.so")]:
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(BUILT / source, folder / name)
    shutil.copytree(ROOT / "fixtures" / "demo" / "sft-model", folder / "demo" / "sft-model")
    shutil.copy(ROOT / "fixtures" / "demo" / "records.jsonl", folder / "demo")
    shutil.copytree(ROOT / "plugin" / "python" / "src" / "lambda_dpo", folder / "python" / "lambda_dpo")
    for source in ["gpu/check.py", "gpu/program.py", "gpu/llama.py", "bench/scenario.py", "bench/serving.py", "bench/sides.py"]:
        shutil.copy(ROOT / "tests" / source, folder)
    return folder


def check(folder, *arguments, **environment):
    command = [sys.executable, folder / "check.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=folder)


def test_without_cuda_it_says_so_and_succeeds(folder):
    answer = check(folder, CUDA_VISIBLE_DEVICES="")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "No CUDA device is available to PyTorch on this machine: nothing was checked or measured.\n"


def test_a_rehearsal_runs_every_check(folder):
    answer = check(folder, "--rehearse", OMP_NUM_THREADS="2")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for layout in ("packed", "rows", "expanded"):
        for dtype in ("float", "bfloat16"):
            assert f"ok: two prompts, {layout}, {dtype}: loss" in answer.stdout
    assert "ok: the library inside Python on the CPU" in answer.stdout
    for line in (
        "training and evaluation, float32 with grouped heads, on cpu and the CPU: 0.0e+00 apart",
        "a run resumed on cpu and one that never stopped: 0.0e+00 apart",
        "dropout on cpu with activations kept and recomputed: 0.0e+00 apart",
        "a LoRA of a bfloat16 and a float32 model on cpu: ",
        "a LoRA with TF32 and without on cpu: 0.0e+00 apart",
        "greedy decoding on cpu and the CPU: ",
    ):
        assert f"ok: {line}" in answer.stdout
    for side in ("ours", "(b)", "(c)"):
        assert f"| tiny, full | {side} | " in answer.stdout
        assert f"| tiny, LoRA | {side} | " in answer.stdout


def test_another_torch_is_refused(folder, tmp_path):
    (tmp_path / "torch.py").write_text('__version__ = "2.10.0"\n')
    answer = check(folder, PYTHONPATH=str(tmp_path))
    assert answer.returncode == 1
    assert answer.stdout.startswith("This PyTorch is 2.10.0, but the library is built for 2.11.0")


def test_the_loss_of_a_policy_that_is_its_own_reference_is_log_n(folder):
    """In (b), all rewards are then 0: the policy's distribution over N responses is uniform, whatever the weights."""
    sys.path.insert(0, str(folder))
    import llama
    from scenario import Scenario

    scenario = Scenario("t", 60, 16, 1, 2, 24, 4, (2, 3, 1, 2), draws_weights=True, num_kv_heads=1)
    model = llama.Llama(scenario.model_config(), "cpu", torch.float64, 2, False)
    settings = {
        "beta": 2.0,
        "lambda": [0.4, 0.3, 0.2, 0.1],
        "prompts": [
            {
                "prompt": [5, 6, 7, 8],
                "responses": [[9, 10], [11, 12, 13], [14], [15, 16]],
                "pi_target": [[0.25] * 4] * 4,
            }
        ],
    }
    loss = llama.Listwise(model, None, settings, "cpu").loss()
    assert abs(loss.item() - torch.tensor(4.0).log().item()) < 1e-6
