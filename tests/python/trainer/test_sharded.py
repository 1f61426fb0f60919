"""Two processes that share gradients, optimiser and weights train as one does: ZeRO-2, ZeRO-3 and FSDP2, on the CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch
from test_distributed import assert_same, run
from tiny import ROOT, make_model

EXAMPLES = ROOT / "plugin" / "python" / "examples"
STEPS = 10

#: What `accelerate launch --config_file` sets for the examples, but with two processes and without bf16.
ENGINES = {
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(EXAMPLES / "zero2.json")},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(EXAMPLES / "zero3.json"),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true",
    },
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    },
}
TYPES = {"zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "fsdp2": "FSDP"}
#: A GPU would be used, and DeepSpeed compiles nothing that these runs need.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module", params=["full", "lora", "lambda"])
def one(request, tmp_path_factory):
    """A run of one process: its kind, its model, what it wrote, and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    model = make_model(folder / "model")
    settings = {"adapter": request.param, "model": model, "ref_model": request.param == "full"}
    args = {"per_device_train_batch_size": 6, "max_steps": STEPS, "eval_steps": 5}
    return settings, run(folder / "one", 1, args=args, environment=ON_CPU, **settings), folder


@pytest.mark.parametrize("engine", ENGINES)
def test_ten_steps_are_those_of_one_process(one, tmp_path, engine):
    """Losses, metrics, gradients and weights; and those after a checkpoint, of new processes that go on from it."""
    settings, expected, folder = one
    (tmp_path / "one").symlink_to(folder / "one")
    args = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 3,
        "max_steps": STEPS,
        "eval_steps": 5,
        "save_strategy": "steps",
        "save_steps": 5,
    }
    options = {"engine": engine, "environment": ENGINES[engine] | ON_CPU, **settings}
    found = run(tmp_path / "several", 2, args=args, **options)
    assert (found["processes"], found["type"]) == (2, TYPES[engine])
    assert_same(tmp_path, expected, found)
    gradients = [torch.load(tmp_path / name / "gradients.pt") for name in ("one", "several")]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        message = lambda text, name=name: f"{name}: {text}"  # noqa: E731
        torch.testing.assert_close(gradients[1][name].float(), gradient, atol=1e-6, rtol=1e-4, msg=message)

    checkpoint = str(tmp_path / "several" / "checkpoint-5")
    state = json.loads((tmp_path / "several" / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["global_step"] == 5
    resumed = run(tmp_path / "resumed", 2, args=args, resume=checkpoint, **options)
    (tmp_path / "resumed one").mkdir()
    (tmp_path / "resumed one" / "one").symlink_to(folder / "one")
    (tmp_path / "resumed one" / "several").symlink_to(tmp_path / "resumed")
    assert_same(tmp_path / "resumed one", expected, resumed)


@pytest.mark.parametrize("config", ["zero2", "zero3", "fsdp"])
def test_the_launch_commands_train(tmp_path, config):
    """`accelerate launch --config_file …` of the README, with two processes on a small model and its records."""
    text = (EXAMPLES / "train.py").read_text()
    for old, new in {
        '"openbmb/UltraFeedback", ': f'"json", data_files="{ROOT}/fixtures/demo/records.jsonl", ',
        "meta-llama/Llama-3.1-8B-Instruct": f"{ROOT}/fixtures/demo/sft-model",
        '"runs/llama-3.1-8b"': f'"{tmp_path}/out"',
        "    gradient_accumulation_steps=16,": "    gradient_accumulation_steps=2, max_steps=3, max_length=256, report_to=[],",
        'eval_strategy="epoch"': 'eval_strategy="no", use_cpu=True',
    }.items():
        assert old in text
        text = text.replace(old, new)
    # DeepSpeed would compile this one, which only inference uses.
    text = "from deepspeed import ops\n\nops.__compatible_ops__['deepspeed_shm_comm'] = False\n" + text
    (tmp_path / "train.py").write_text(text)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / f"{config}.yaml")]
    environment = os.environ | ON_CPU | {"LAMBDA_DPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [*launch, "--num_processes", "2", str(tmp_path / "train.py")]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train_loss" in done.stdout + done.stderr
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
