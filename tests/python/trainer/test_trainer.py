"""`LambdaDPOTrainer`: the program's losses in every layout, the reference, resuming, metrics."""

import json
import math

import datasets
import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny import DIMENSIONS, host_adapter, host_losses, make_model, records
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_dpo import ConfigError, LambdaDPOConfig, LambdaDPOTrainer

LEARNING_RATE = 2e-3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))


def config(folder, **options):
    defaults = {
        "max_steps": 10,
        "per_device_train_batch_size": 12,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return LambdaDPOConfig(output_dir=str(folder), **{**defaults, **options})


def lora(**options):
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=True, **options)


def trained(folder, model, rows=None, eval_rows=None, peft_config=None, resume=None, ref_model=None, tokenizer=None, **options):
    tokenizer = tokenizer or (model if isinstance(model, str) else None)
    rows = datasets.Dataset.from_list(rows or records())
    eval_rows = datasets.Dataset.from_list(eval_rows) if eval_rows else None
    trainer = LambdaDPOTrainer(
        model,
        ref_model=ref_model,
        args=config(folder, **options),
        train_dataset=rows,
        eval_dataset=eval_rows,
        processing_class=AutoTokenizer.from_pretrained(tokenizer) if tokenizer else None,
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_losses_are_the_programs(tmp_path, family):
    model = make_model(tmp_path / "model", family)
    expected = host_losses(tmp_path / "host", model, records(), steps=10, learning_rate=LEARNING_RATE)
    found = losses(trained(tmp_path / "out", model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected[0] - expected[-1] > 0.05, "training must have moved the loss for this to mean something"


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_losses_of_an_adapter_are_the_programs(tmp_path, family):
    """Both start from the adapter that the program initialised."""
    model = make_model(tmp_path / "model", family)
    expected = host_losses(tmp_path / "host", model, records(), steps=10, learning_rate=LEARNING_RATE, lora_rank=4)
    adapter = host_adapter(tmp_path / "start", model, records(), 4)
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter, is_trainable=True)
    found = losses(trained(tmp_path / "out", policy, tokenizer=model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected[0] - expected[-1] > 0.01, "training must have moved the loss for this to mean something"


def test_layouts_accumulation_and_checkpointing_change_nothing(tmp_path, folder):
    expected = losses(trained(tmp_path / "packed", folder, max_steps=4))
    variants = {
        "rows": {"layout": "rows"},
        "expanded": {"layout": "expanded"},
        "shared rows": {"max_tokens": 400},
        "accumulated": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4},
        "checkpointed": {"gradient_checkpointing": True},
        "precomputed": {"precompute_ref_log_probs": True},
        "small budget": {"logits_budget_mib": 1},
        "workers": {"dataloader_num_workers": 2},
    }
    for name, options in variants.items():
        found = losses(trained(tmp_path / name, folder, max_steps=4, **options))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_lambda_depends_only_on_epoch_and_record(tmp_path, folder):
    """Two steps of half the records draw the λ that one step of all of them draws."""
    whole = trained(tmp_path / "whole", folder, max_steps=2)
    halves = trained(tmp_path / "halves", folder, max_steps=4, per_device_train_batch_size=6)

    def by_epoch(trainer, steps):
        rows = [row for row in trainer.state.log_history if "loss" in row]
        names = [f"lambda/{name}" for name in DIMENSIONS]
        means = torch.tensor([[row[name] for name in names] for row in rows])
        return means.reshape(2, steps, len(names)).mean(dim=1)

    torch.testing.assert_close(by_epoch(whole, 1), by_epoch(halves, 2), atol=1e-6, rtol=0)
    first, second = by_epoch(whole, 1)
    assert (first - second).abs().max() > 0.01


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path, folder):
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    for name, extra in {"full": {}, "precomputed": {"precompute_ref_log_probs": True}, "lora": {}}.items():
        peft_config = lora(lora_dropout=0.0) if name == "lora" else None
        whole = trained(tmp_path / name, folder, peft_config=peft_config, **options, **extra)
        checkpoint = str(tmp_path / name / "checkpoint-4")
        resumed = trained(tmp_path / f"{name} on", folder, peft_config=peft_config, resume=checkpoint, **options, **extra)
        assert losses(resumed)[:4] == losses(whole)[:4], "earlier losses come from the checkpoint"
        torch.testing.assert_close(losses(resumed)[4:], losses(whole)[4:], atol=1e-6, rtol=0)
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_metrics_have_trls_names(tmp_path, folder):
    options = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    trainer = trained(tmp_path, folder, eval_rows=records(5, 12), **options)
    names = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"]
    names += ["logps/rejected", "logps/ratio", *(f"loss/{name}" for name in DIMENSIONS)]
    train = next(row for row in trainer.state.log_history if "loss" in row)
    assert set(names) | {f"lambda/{name}" for name in DIMENSIONS} <= set(train)
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert {f"eval_{name}" for name in names} <= set(evaluations[-1])
    # At the start the policy is its reference, and the sums of the same log-probs are equal; later it moves away.
    assert train["rewards/margins"] == 0 and train["logps/ratio"] == 0
    assert abs(evaluations[-1]["eval_logps/ratio"]) > 1e-3
    assert math.isclose(sum(train[f"lambda/{name}"] for name in DIMENSIONS), 1, abs_tol=1e-5)


def test_evaluations_are_means_over_prompts(tmp_path, folder):
    """Batches of 2, 2 and 1 give the same metrics as a batch of 5."""
    found = []
    for size in (2, 5):
        options = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": size}
        trainer = trained(tmp_path / str(size), folder, eval_rows=records(5, 12), **options)
        found.append(next(row for row in trainer.state.log_history if "eval_loss" in row))
    for name, value in found[0].items():
        if name.startswith(("eval_loss", "eval_rewards", "eval_logps")):
            assert math.isclose(value, found[1][name], abs_tol=1e-5), name
    later = trainer.evaluate(datasets.Dataset.from_list(records(5, 12)))
    assert math.isclose(later["eval_loss"], found[1]["eval_loss"], abs_tol=1e-5)


def test_the_reference_of_an_adapter_is_the_model_without_it(tmp_path, folder):
    """With s^ref = 0 the rewards of the first step would be β times the log-probs; here they are 0, and then move."""
    trainer = trained(tmp_path / "lora", folder, peft_config=lora(lora_dropout=0.0), max_steps=3)
    first, *_, last = [row for row in trainer.state.log_history if "loss" in row]
    assert first["logps/chosen"] < -50
    assert first["rewards/chosen"] == 0 and first["rewards/rejected"] == 0
    # The model's own weights, which later rewards are relative to, have not changed.
    reference = AutoModelForCausalLM.from_pretrained(folder)
    named = dict(trainer.model.get_base_model().named_parameters())
    for name, parameter in reference.named_parameters():
        layered = name.replace("_proj.weight", "_proj.base_layer.weight")
        assert torch.equal(named.get(layered, named.get(name)), parameter), name
    explicit = trained(
        tmp_path / "explicit", folder, peft_config=lora(lora_dropout=0.0), max_steps=3, ref_model=reference
    )
    torch.testing.assert_close(losses(explicit), losses(trainer), atol=1e-6, rtol=0)
    assert abs(last["rewards/chosen"]) > 1e-4
    without = trained(
        tmp_path / "without", folder, peft_config=lora(lora_dropout=0.0), max_steps=1, reference_free=True
    )
    free = next(row for row in without.state.log_history if "loss" in row)
    assert math.isclose(free["rewards/chosen"], 0.1 * free["logps/chosen"], rel_tol=1e-5)
    assert abs(free["loss"] - first["loss"]) > 1e-3


CHANGES_THE_BASE = {
    "pissa": (dict(init_lora_weights="pissa"), "init_lora_weights = 'pissa' changes the base model's weights"),
    "pissa_niter_4": (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights = 'pissa_niter_4' changes"),
    "olora": (dict(init_lora_weights="olora"), "init_lora_weights = 'olora' changes the base model's weights"),
    "bias all": (dict(bias="all"), r"Training changes `.*q_proj.*bias` of the base model \(bias = 'all'\)"),
    "bias lora_only": (dict(bias="lora_only"), r"Training changes `.*bias` of the base model \(bias = 'lora_only'\)"),
}


@pytest.mark.parametrize("name", CHANGES_THE_BASE)
def test_an_adapter_that_changes_the_base_needs_a_ref_model(tmp_path, name):
    """Its model without the adapter is not the initial policy; with the ref_model the first loss is ln N again."""
    options, problem = CHANGES_THE_BASE[name]
    folder = make_model(tmp_path / "model", family="qwen")  # It has biases.
    peft_config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)
    for more in ({}, {"precompute_ref_log_probs": True}):
        with pytest.raises(ConfigError, match=f"{problem}.*pass that model, loaded a second time, as ref_model"):
            trained(tmp_path / "refused", folder, peft_config=peft_config, max_steps=1, **more)
    trained(tmp_path / "free", folder, peft_config=peft_config, max_steps=1, reference_free=True)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    given = trained(tmp_path / "given", folder, peft_config=peft_config, ref_model=reference, max_steps=1)
    plain = trained(tmp_path / "plain", folder, peft_config=lora(), max_steps=1)
    torch.testing.assert_close(losses(given), losses(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"init_lora_weights": name} for name in (True, "gaussian", "orthogonal")]
                         + [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1, 2]}])  # fmt: skip
def test_the_reference_stays_put_under_other_adapters(tmp_path, folder, options):
    peft_config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)
    trainer = trained(tmp_path / "run", folder, peft_config=peft_config, max_steps=3, learning_rate=0.05)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad(), trainer.model.disable_adapter():
        found = trainer.model.eval()(ids).logits
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_cached_reference_is_found_by_contents(tmp_path, folder, monkeypatch):
    from lambda_dpo.trainer import LambdaDPOTrainer as Trainer

    computed = []
    original = Trainer._computed
    monkeypatch.setattr(Trainer, "_computed", lambda self, features: computed.append(len(features)) or original(self, features))
    options = {"max_steps": 1, "precompute_ref_log_probs": True}
    first = losses(trained(tmp_path / "1", folder, **options))
    assert losses(trained(tmp_path / "2", folder, **options)) == first
    changed = json.loads(json.dumps(records()))
    changed[0]["completions"][0]["response"] += " And more."
    trained(tmp_path / "3", folder, rows=changed, **options)
    other = make_model(tmp_path / "other", seed=1)
    trained(tmp_path / "4", other, **options)
    assert computed == [12, 0, 1, 12]
    (file,) = (tmp_path / "cache" / "reference-python").glob(f"{_key(folder)}*")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    trained(tmp_path / "5", folder, **options)
    assert computed[-1] == 12


def _key(folder):
    from lambda_dpo.reference import model_key

    return model_key(AutoModelForCausalLM.from_pretrained(folder), "no")


def test_bfloat16_trains(tmp_path, folder):
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    half.config._name_or_path = folder
    found = losses(trained(tmp_path / "weights", half, max_steps=3))
    mixed = losses(trained(tmp_path / "autocast", folder, max_steps=3, bf16=True))
    single = losses(trained(tmp_path / "single", folder, max_steps=3))
    torch.testing.assert_close(found, single, atol=0.05, rtol=0)
    torch.testing.assert_close(mixed, single, atol=0.05, rtol=0)


def test_rows_with_a_ratings_column_are_supported(tmp_path, folder):
    def rated(record):
        completions = [completion["response"] for completion in record["completions"]]
        rating = lambda completion, name: completion["annotations"].get(name, {}).get("Rating")  # noqa: E731
        ratings = {name: [rating(completion, name) for completion in record["completions"]] for name in DIMENSIONS}
        return {"prompt": record["instruction"], "completions": completions, "ratings": ratings}

    expected = losses(trained(tmp_path / "1", folder, max_steps=2))
    assert losses(trained(tmp_path / "2", folder, rows=[rated(record) for record in records()], max_steps=2)) == expected


def test_rows_with_a_rankings_column_are_supported(tmp_path, folder):
    rows, rated = [], []
    for row in records():
        texts = [completion["response"] for completion in row["completions"]]
        ranks = {name: [1 + (index + k) % len(texts) for index in range(len(texts))] for k, name in enumerate(DIMENSIONS)}
        rows.append({"prompt": row["instruction"], "responses": texts, "rankings": ranks})
        ratings = {name: [len(texts) + 1 - rank for rank in ranked] for name, ranked in ranks.items()}
        rated.append({"prompt": row["instruction"], "completions": texts, "ratings": ratings})
    found = losses(trained(tmp_path / "ranked", folder, rows, data_format="rankings", max_steps=2))
    assert found == losses(trained(tmp_path / "rated", folder, rated, max_steps=2))
    with pytest.raises(ConfigError, match="data_format is 'ranks', but it must be one of ultrafeedback, pairs, rankings."):
        config(tmp_path, data_format="ranks")
