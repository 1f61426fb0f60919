"""`LambdaDPOTrainer` with a λ-adapter: its dimensions, evaluation, what the program computes with what it trained."""

import copy
import json
import re
import subprocess

import datasets
import pytest
import torch
from peft import PeftModel
from test_lambda_lora_program import FIVE, rows_of, run_program
from test_trainer import config, losses, trained
from tiny import DIMENSIONS, PROGRAM, make_model, records
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_dpo import (
    ConfigError,
    LambdaDPOTrainer,
    LambdaLoraConfig,
    ListwiseCollator,
    SampleTokenizer,
    convert,
    sequence_log_probs,
)
from lambda_dpo.policy import plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))


def adapter(**options):
    return LambdaLoraConfig(**{"r": 2, "rank_per_dimension": 3, "init_lora_weights": False, **options})


def is_rated(completion):
    return all(completion["annotations"].get(name, {}).get("Rating", "N/A") not in ("N/A", "") for name in DIMENSIONS)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A trainer after a few steps, and the folder of its adapter."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMBDA_DPO_CACHE", str(out / "cache"))
        trainer = trained(out / "run", folder, peft_config=adapter(), max_steps=4, precompute_ref_log_probs=True)
    trainer.save_model(str(out / "adapter"))
    trainer.model.eval()
    return trainer, out / "adapter"


def test_the_dimensions_are_those_of_the_records(finished):
    trainer, saved = finished
    assert trainer.model.peft_config["default"].dimensions == DIMENSIONS
    fields = json.loads((saved / "adapter_config.json").read_text())
    assert (fields["dimensions"], fields["rank_per_dimension"], fields["r"]) == (DIMENSIONS, 3, 2)


def test_the_program_has_the_logits_of_what_was_trained(finished, folder, tmp_path):
    trainer, saved = finished
    weights = torch.cat([FIVE, torch.zeros(5, 1)], 1)
    inputs = rows_of(torch.arange(3, 27)[None], weights)
    with torch.no_grad(), trainer.model.set_lambda(weights):
        found = trainer.model(inputs["input_ids"]).logits
    torch.testing.assert_close(run_program(tmp_path, folder, saved, inputs)["logits"], found, atol=1e-5, rtol=0)


def test_the_program_scores_answers_as_peft_does(finished, folder, tmp_path):
    trainer, saved = finished
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records(4)))
    tokenizer = SampleTokenizer(folder)
    batch = ListwiseCollator(layout="rows")([tokenizer.tokenize(sample) for sample in convert(records(4))])
    found = []
    for name in DIMENSIONS[:2]:
        command = ["score", "--model", folder, "--adapter", saved, "--lambda", f"{name}=1"]
        command += ["--records", tmp_path / "records.jsonl", "--out", tmp_path / f"{name}.jsonl"]
        subprocess.run([PROGRAM, *command], check=True, capture_output=True)
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        with torch.no_grad(), trainer.model.set_lambda({name: 1}):
            policy = plan(trainer.model, "rows")
            sums = policy.run(
                trainer.model, batch, torch.float32, lambda **given: sequence_log_probs(batch, **given)[1]
            )
        found.append(sums)
        expected = torch.tensor([value for line in lines for value in line["log_probs"]])
        torch.testing.assert_close(sums, expected, atol=1e-3, rtol=1e-5)
    assert (found[0] - found[1]).abs().min() > 0.05


def test_evaluation_is_at_the_uniform_lambda_and_leaves_the_users(finished, folder, tmp_path):
    """The loss is that of the model merged at the uniform λ, on records that are rated in all dimensions."""
    trainer, _ = finished
    full = [row for row in records(60) if all(is_rated(completion) for completion in row["completions"])][:5]
    rows = datasets.Dataset.from_list(full)
    ids = torch.arange(3, 12)[None]
    trainer.model.set_lambda(honesty=1)
    with torch.no_grad():
        before = trainer.model(ids).logits
    found = trainer.evaluate(rows)
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(trainer.model(ids).logits, before)
    uniform = copy.deepcopy(trainer.model)
    uniform.set_lambda()
    merged = LambdaDPOTrainer(
        uniform.merge_and_unload(),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=config(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    expected = merged.evaluate()
    for name in ("eval_loss", "eval_rewards/margins", "eval_logps/chosen"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def test_training_leaves_the_lambda_that_was_set(folder, tmp_path):
    policy = LambdaDPOTrainer(
        folder,
        args=config(tmp_path, max_steps=1),
        train_dataset=datasets.Dataset.from_list(records(4)),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=adapter(),
    )
    policy.model.set_lambda(honesty=1)
    policy.train()
    ids = torch.arange(3, 12).repeat(3, 1)
    policy.model.eval()
    with torch.no_grad():
        found = policy.model(ids).logits
        with policy.model.set_lambda("honesty=1"):
            assert torch.equal(policy.model(ids).logits, found)


def test_the_order_of_the_dimensions_is_the_adapters(folder, tmp_path):
    """An adapter that names them in another order, with its columns in that order, has the same losses."""
    torch.manual_seed(0)
    adapted = lambda names: PeftModel(AutoModelForCausalLM.from_pretrained(folder), adapter(dimensions=names))  # noqa: E731
    forth, back = adapted(DIMENSIONS), adapted(DIMENSIONS[::-1])
    order = [0, 1, *(2 + 3 * k + i for k in reversed(range(4)) for i in range(3))]
    theirs = dict(forth.named_parameters())
    with torch.no_grad():
        for name, weight in back.named_parameters():
            if weight.requires_grad:
                weight.copy_(theirs[name][order] if "lora_A" in name else theirs[name][:, order])
    options = {"tokenizer": folder, "max_steps": 3}
    found = [losses(trained(tmp_path / str(turn), model, **options)) for turn, model in enumerate((forth, back))]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            losses(trained(tmp_path / "other", adapted(DIMENSIONS), **options)), found[0], atol=1e-3, rtol=0
        )


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(folder, tmp_path):
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trained(tmp_path / "whole", folder, peft_config=adapter(), **options)
    checkpoint = str(tmp_path / "whole" / "checkpoint-4")
    resumed = trained(tmp_path / "on", folder, peft_config=adapter(), resume=checkpoint, **options)
    torch.testing.assert_close(losses(resumed), losses(whole), atol=1e-6, rtol=0)


@pytest.mark.parametrize("names", [DIMENSIONS[:2], [*DIMENSIONS, "style"]])
def test_other_dimensions_are_refused(folder, tmp_path, names):
    message = (
        f"The adapter has the dimensions {', '.join(names)}, but the records are rated in {', '.join(DIMENSIONS)}: name the "
        "same ones in `dimensions` of both."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        trained(tmp_path, folder, peft_config=adapter(dimensions=names))
    model = PeftModel(AutoModelForCausalLM.from_pretrained(folder), adapter(dimensions=names))
    with pytest.raises(ConfigError, match=re.escape(message)):
        trained(tmp_path, model, tokenizer=folder)
