"""λ-DPO in LLaMA-Factory: the program's losses, the reference, resuming, several processes, logs and plots."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny import DIMENSIONS, host_adapter, host_losses, make_model, records


def losses(log):
    return [row["loss"] for row in log if "loss" in row]


@pytest.mark.parametrize("template", ["llama3", "qwen"])
def test_losses_are_the_programs(factory, template):
    model = make_model(factory.folder / "model", template)
    expected = host_losses(factory.folder / "host", model, factory.rows, steps=10, learning_rate=2e-3)
    log = factory.trained(factory.config(model, template=template, max_steps=10))
    torch.testing.assert_close(losses(log), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("template", ["llama3", "qwen"])
def test_losses_of_an_adapter_are_the_programs(factory, template):
    """Both start from the adapter that the program initialised."""
    model = make_model(factory.folder / "model", template)
    expected = host_losses(factory.folder / "host", model, factory.rows, steps=10, learning_rate=2e-3, lora_rank=4)
    adapter = host_adapter(factory.folder / "start", model, factory.rows, 4)
    options = {"finetuning_type": "lora", "adapter_name_or_path": adapter, "template": template, "max_steps": 10}
    log = factory.trained(factory.config(model, **options))
    torch.testing.assert_close(losses(log), expected, atol=1e-5, rtol=0)
    assert expected[0] - expected[-1] > 0.01, "training must have moved the loss for this to mean something"


def test_an_adapters_reference_is_the_model_without_it(factory):
    model = make_model(factory.folder / "model")
    options = {
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "all",
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_dataset": "held_out",
        "eval_strategy": "steps",
        "eval_steps": 3,
        "plot_loss": True,
        "disable_gradient_checkpointing": None,
        "lambda_layout": "rows",
    }
    factory.write("held_out", records(5, 12), {"formatting": "ultrafeedback"})
    log = factory.trained(factory.config(model, **options))
    first = log[0]
    # With s^ref = 0 the rewards would be β times the log-probs.
    assert first["logps/chosen"] < -50 and first["rewards/chosen"] == 0 and first["rewards/margins"] == 0
    steps = [row for row in log if "loss" in row]
    assert abs(steps[-1]["rewards/margins"]) > 1e-3
    names = [f"loss/{name}" for name in DIMENSIONS] + [f"lambda/{name}" for name in DIMENSIONS]
    assert set(names) <= set(first)
    evaluations = [row for row in log if "eval_loss" in row]
    assert len(evaluations) == 2 and {"eval_rewards/accuracies", "eval_loss/honesty"} <= set(evaluations[0])

    out = factory.folder / "out"
    lines = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == first["loss"]
    assert {"rewards/margins", "rewards/accuracies", "logps/chosen", "logps/ratio", *names} <= set(lines[0])
    assert any("eval_rewards/margins" in line for line in lines)
    for plot in ("loss", "loss_honesty", "rewards_accuracies", "eval_loss"):
        assert (out / f"training_{plot}.png").stat().st_size > 0
    assert (out / "adapter_model.safetensors").exists()

    # Resumed from the checkpoint in the middle, with reference log-probs recomputed, the run has the same losses.
    resumed = factory.config(
        model, out="resumed", resume_from_checkpoint=str(out / "checkpoint-3"), **options
    )
    again = factory.trained(resumed, out="resumed")
    torch.testing.assert_close(losses(again), losses(log), atol=1e-6, rtol=0)


def test_precomputed_references_and_layouts_change_nothing(factory):
    model = make_model(factory.folder / "model")
    expected = losses(factory.trained(factory.config(model)))
    variants = {
        "pre": {"lambda_precompute_ref_log_probs": True},
        "checkpointing": {"disable_gradient_checkpointing": None},
        "accumulation": {
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 4,
            "preprocessing_num_workers": 2,
        },
    }
    for name, options in variants.items():
        found = losses(factory.trained(factory.config(model, out=name, **options), out=name))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_train_as_one(factory):
    """Started by LLaMA-Factory's own launcher and torchrun."""
    model = make_model(factory.folder / "model")
    options = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "all", "ddp_backend": None}
    one = factory.trained(factory.config(model, out="one", per_device_train_batch_size=6, **options), out="one")
    config = factory.config(
        model, out="two", per_device_train_batch_size=3, **{**options, "ddp_backend": "gloo", "ddp_timeout": 180}
    )
    environment = os.environ | factory.environment() | {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
    command = [os.path.join(os.path.dirname(sys.executable), "lambda-dpo-factory"), "train", config]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Initializing 2 distributed tasks" in done.stdout + done.stderr
    two = factory.log("two")
    torch.testing.assert_close(losses(two), losses(one), atol=1e-5, rtol=0)
    ours = load_file(factory.folder / "two" / "adapter_model.safetensors")
    for name, tensor in load_file(factory.folder / "one" / "adapter_model.safetensors").items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5)


def test_other_stages_pass_through(factory):
    """A plain DPO run on pairs, with LLaMA-Factory's own converters and losses."""
    model = make_model(factory.folder / "model")
    pairs = [
        {"instruction": row["instruction"], "chosen": row["completions"][0]["response"], "rejected": "No."}
        for row in factory.rows
    ]
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    factory.write("pairs", pairs, {"ranking": True, "columns": columns})
    log = factory.trained(factory.config(model, dataset="pairs", pref_loss="sigmoid", max_steps=1))
    assert "rewards/chosen" in log[0] and not any(name.startswith("lambda/") for name in log[0])


def test_responses_that_are_dropped_leave_a_distribution():
    from lambda_dpo.factory.data import _over

    assert _over([0.5, 0.25, 0.25], [0, 1, 2]) == [0.5, 0.25, 0.25]
    assert _over([0.5, 0.25, 0.25], [1, 2]) == [0.5, 0.5]
    assert _over([0.75, None, 0.25], [0, 1]) == [1.0, None]
    assert _over([1.0, 0.0, 0.0], [1, 2]) == [None, None]


def test_rankings_train_like_the_ratings_that_they_stand_for(factory):
    model = make_model(factory.folder / "model")
    ranked, rated = [], []
    for row in records():
        texts = [completion["response"] for completion in row["completions"]]
        ranks = {name: [1 + (index + k) % len(texts) for index in range(len(texts))] for k, name in enumerate(DIMENSIONS)}
        ranked.append({"prompt": row["instruction"], "responses": texts, "rankings": ranks})
        annotations = [{name: {"Rating": len(texts) + 1 - ranks[name][i]} for name in DIMENSIONS} for i in range(len(texts))]
        completions = [{"response": text, "annotations": rates} for text, rates in zip(texts, annotations, strict=True)]
        rated.append({"instruction": row["instruction"], "completions": completions})
    factory.write("ranked", ranked, {"formatting": "rankings"})
    factory.write("rated", rated, {"formatting": "ultrafeedback"})
    found, expected = (
        losses(factory.trained(factory.config(model, out=name, dataset=name, max_steps=2), out=name))
        for name in ("ranked", "rated")
    )
    assert found == expected and len(found) == 2
