"""The objectives beside λ-DPO: golden values, the program's losses, what each needs, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import LEARNING_RATE, config, losses, trained
from tiny import ROOT, host_metrics, make_model, pairs, rated, records

from lambda_dpo import ConfigError, InvalidInputError, LambdaDPOTrainer, lambda_dpo_loss
from lambda_dpo.objectives import LOSS_TYPES, objective

GOLDEN = ROOT / "fixtures" / "golden" / "objectives"
CASES = json.loads((GOLDEN / "cases.json").read_text())
OPTIONS = ("beta", "reduction", "label_smoothing", "simpo_gamma", "sft_weight")
PREFERENCE = {"dimensions": ["preference"], "lambda_schedule": "fixed", "lambda_weights": {"preference": 1.0}}


def golden_batch(case):
    """The preferences of a golden case, with the λ' that the collator would have made, and its log-probs."""
    inputs = load_file(GOLDEN / f"{case['inputs']}.safetensors")
    mask, offsets = inputs["target_mask"].bool(), inputs["prompt_offsets"]
    weights = inputs["lambda"].clone()
    for prompt, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        weights[prompt, mask[:, start:end].sum(dim=1) < 2] = 0
    batch = {
        "prompt_offsets": offsets,
        "sequence_index": torch.arange(mask.shape[1]).expand(mask.shape).contiguous(),
        "sequence_num_tokens": inputs["response_lengths"],
        "pi_target": inputs["pi_target"],
        "target_mask": mask,
        "lambda": weights / weights.sum(dim=1, keepdim=True),
    }
    if case["ranks"]:
        batch["ranks"] = inputs["ranks"]
    lengths = inputs["response_lengths"] if case["reduction"] == "mean" else 1
    return batch, inputs["sequence_log_probs"] / lengths, inputs["reference_log_probs"] / lengths


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_losses_and_gradients_are_those_of_the_definitions(case):
    golden = load_file(GOLDEN / "golden.safetensors")
    batch, log_probs, reference = golden_batch(case)
    log_probs.requires_grad_()
    output = lambda_dpo_loss(
        batch,
        log_probs=log_probs,
        loss_type=case["objective"],
        reference_log_probs=reference if objective(case["objective"]).has_reference else None,
        **{name: case[name] for name in OPTIONS},
    )
    output.loss.backward()
    name = case["name"]
    torch.testing.assert_close(output.loss, golden[f"{name}.sequence_loss"], atol=0, rtol=1e-12)
    torch.testing.assert_close(log_probs.grad, golden[f"{name}.grad_sequence_log_probs"], atol=1e-13, rtol=1e-10)
    assert (output.sft_losses is not None) == (case["sft_weight"] > 0 or case["objective"] == "orpo")


def test_defaults_are_those_of_the_program():
    (case,) = [case for case in CASES if case["name"] == "simpo_pair"]
    batch, log_probs, _ = golden_batch(case)
    found = lambda_dpo_loss(batch, log_probs=log_probs, loss_type="simpo", beta=2.0).loss
    expected = lambda_dpo_loss(
        batch, log_probs=log_probs, loss_type="simpo", beta=2.0, simpo_gamma=0.5, reduction="mean"
    ).loss
    assert found == expected
    reductions = {name: objective(name).default_reduction for name in LOSS_TYPES}
    assert {name for name, reduction in reductions.items() if reduction == "mean"} == {"ipo", "simpo", "orpo"}


RUNS = {
    "plackett_luce": ("lambda_dpo", {"loss_type": "plackett_luce"}, 'kind = "plackett_luce"'),
    "listwise with sft_weight": ("lambda_dpo", {"sft_weight": 0.3}, "sft_weight = 0.3"),
    "sigmoid": ("dpo", {"loss_type": "sigmoid", "label_smoothing": 0.1}, 'kind = "sigmoid"\nlabel_smoothing = 0.1'),
    "hinge": ("dpo", {"loss_type": "hinge"}, 'kind = "hinge"'),
    "ipo": ("dpo", {"loss_type": "ipo", "beta": 0.5}, 'kind = "ipo"\nbeta = 0.5'),
    "simpo": ("dpo", {"loss_type": "simpo", "beta": 2.0}, 'kind = "simpo"\nbeta = 2.0'),
    "orpo": ("dpo", {"loss_type": "orpo"}, 'kind = "orpo"'),
}


@pytest.mark.parametrize("name", RUNS)
def test_losses_of_every_objective_are_the_programs(tmp_path, folder, monkeypatch, name):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))
    stage, options, loss = RUNS[name]
    is_pairs = stage == "dpo"
    rows = pairs() if is_pairs else records()
    data = 'format = "pairs"' if is_pairs else ""
    program = host_metrics(
        tmp_path / "host", folder, rows, steps=5, learning_rate=LEARNING_RATE, stage=stage, data=data, loss=loss
    )
    trainer = trained(tmp_path / "out", folder, rows=rows, max_steps=5, **options)
    log = [row for row in trainer.state.log_history if "loss" in row]
    torch.testing.assert_close(losses(trainer), [line["loss"] for line in program], atol=1e-5, rtol=0)
    assert abs(log[0]["loss"] - log[-1]["loss"]) > 1e-3, "training must have moved the loss for this to mean something"
    has_likelihood = options.get("loss_type") == "orpo" or "sft_weight" in options
    for row, line in zip(log, program, strict=True):
        assert ("nll_loss" in row) == ("nll_loss" in line) == has_likelihood
        if has_likelihood:
            assert abs(row["nll_loss"] - line["nll_loss"]) < 1e-5
        assert ("logps/ratio" in row) == (options.get("loss_type") not in ("simpo", "orpo"))


def test_orders_are_those_of_rankings_and_of_ratings_however_far_apart(tmp_path, folder):
    """The targets of the ratings 3000, 2000 and 1000 are 1, 0 and 0, which say nothing about the second and third."""
    prompts = [row["prompt"] for row in pairs(4)]
    answers = ["It eats fish.", "Perhaps it is brown.", "It sleeps."]
    row = {"completions": answers}
    found = [
        losses(trained(tmp_path / str(name), folder, rows=[{"prompt": prompt, **row} for prompt in prompts], **options))
        for name, row, options in [
            ("near", {**row, "ratings": {"a": [2, 1, 3], "b": [1, 1, 2]}}, {}),
            ("far", {**row, "ratings": {"a": [2000, 1000, 3000], "b": [1, 1, 2000]}}, {}),
            ("ranked", {"responses": answers, "rankings": {"a": [2, 3, 1], "b": [2, 2, 1]}}, {"data_format": "rankings"}),
        ]
        for options in [{**options, "loss_type": "plackett_luce", "max_steps": 3}]
    ]
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-6, rtol=0)
    rows = [{"prompt": prompt, "responses": answers, "rankings": {"a": [2, 3, 1], "b": [2, 2, 1]}} for prompt in prompts]
    program = host_metrics(
        tmp_path / "host",
        folder,
        rows,
        steps=3,
        learning_rate=LEARNING_RATE,
        data='format = "rankings"',
        loss='kind = "plackett_luce"',
    )
    torch.testing.assert_close([line["loss"] for line in program], found[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss_type", ["simpo", "orpo"])
def test_objectives_without_a_reference_compute_none(tmp_path, folder, monkeypatch, loss_type):
    def refuse(*_):
        raise AssertionError("a reference was computed")

    monkeypatch.setattr(LambdaDPOTrainer, "_run_reference", refuse)
    options = {"loss_type": loss_type, "beta": 2.0 if loss_type == "simpo" else 0.1, "max_steps": 2, **PREFERENCE}
    trainer = trained(tmp_path, folder, rows=rated(pairs()), eval_rows=rated(pairs(4, 12)), **options)
    assert trainer.ref_model is None
    row = trainer.state.log_history[0]
    # s^ref = 0, and s is a mean over tokens.
    assert abs(row["rewards/chosen"] - options["beta"] * row["logps/chosen"]) < 1e-5 and row["logps/chosen"] > -20
    assert ("eval_nll_loss" in trainer.evaluate()) == (loss_type == "orpo")


def test_accumulation_changes_no_objective(tmp_path, folder):
    for name in LOSS_TYPES:
        options = {"loss_type": name, "max_steps": 2, "sft_weight": 0.2}
        whole = losses(trained(tmp_path / name, folder, **options))
        small = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}
        found = losses(trained(tmp_path / f"{name} small", folder, **options, **small))
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


REFUSED = {
    "loss_type is 'plackett-luce', which does not exist: did you mean 'plackett_luce'?": {"loss_type": "plackett-luce"},
    "loss_type is 'kto', which does not exist: it must be one of listwise, plackett_luce, sigmoid, hinge, ipo, simpo, "
    "orpo.": {"loss_type": "kto"},
    "label_smoothing is 0.1, but only sigmoid has it, not hinge: leave it out.": {
        "loss_type": "hinge",
        "label_smoothing": 0.1,
    },
    "label_smoothing is 0.5, but it must be at least 0 and below 0.5.": {"loss_type": "sigmoid", "label_smoothing": 0.5},
    "simpo_gamma is 0.5, but only simpo has it, not listwise: leave it out.": {"simpo_gamma": 0.5},
    "sft_weight is -1.0, but it must be a finite number of at least 0.": {"sft_weight": -1.0},
    "beta is 0.0, but it must be a finite number above 0.": {"beta": 0.0},
    "simpo is defined on means over tokens: set reduction to mean.": {"loss_type": "simpo", "reduction": "sum"},
    "orpo has no reference: leave `precompute_ref_log_probs` out.": {
        "loss_type": "orpo",
        "precompute_ref_log_probs": True,
    },
    "`paper_exact` is the loss of Appendix B, but loss_type is sigmoid: set one of them.": {
        "loss_type": "sigmoid",
        "paper_exact": True,
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_an_objective_does_not_have_are_refused(tmp_path, message):
    with pytest.raises(ConfigError) as error:
        config(tmp_path, **REFUSED[message])
    assert str(error.value) == message


def test_references_that_an_objective_does_not_have_are_refused(tmp_path, folder):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "reference"))
    with pytest.raises(ConfigError, match="^simpo has no reference: leave the ref_model out.$"):
        trained(tmp_path / "run", folder, ref_model=reference, loss_type="simpo", beta=2.0, max_steps=1)
    (case,) = [case for case in CASES if case["name"] == "orpo_pair"]
    batch, log_probs, s_ref = golden_batch(case)
    with pytest.raises(InvalidInputError, match="^reference_log_probs was given, but orpo has no reference: leave it out$"):
        lambda_dpo_loss(batch, log_probs=log_probs, reference_log_probs=s_ref, loss_type="orpo")
    with pytest.raises(ConfigError, match="^loss_type is 'sigmoidal', which does not exist: did you mean 'sigmoid'?"):
        lambda_dpo_loss(batch, log_probs=log_probs, loss_type="sigmoidal")


def test_a_beta_far_outside_of_the_usual_is_reported():
    assert objective("simpo").beta_notice(2.0, "mean") is None and objective("listwise").beta_notice(0.1, "sum") is None
    assert objective("simpo").beta_notice(0.1, "mean") == (
        "beta = 0.1 is far outside of 2.0 to 10.0, which is usual for loss_type = 'simpo' with reduction = 'mean'."
    )
