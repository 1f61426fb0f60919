"""`lambda_adapter: true`: a λ-adapter trained in LLaMA-Factory is the program's, and the program uses it."""

import json
import subprocess

import torch
from peft import PeftModel
from test_factory import losses
from test_refusals import refusal
from tiny import DIMENSIONS, PROGRAM, host_adapter, host_losses, make_model, records
from transformers import AutoModelForCausalLM, AutoTokenizer

ADAPTER = {"adapter": 'kind = "lambda_lora"\nrank = 4\nrank_per_dimension = 2'}
OPTIONS = {"finetuning_type": "lora", "lambda_adapter": True, "lora_rank": 4, "lambda_rank_per_dimension": 2}


def test_losses_are_the_programs(factory):
    """Both start from the adapter that the program initialised."""
    model = make_model(factory.folder / "model")
    expected = host_losses(factory.folder / "host", model, factory.rows, steps=10, learning_rate=2e-3, **ADAPTER)
    start = host_adapter(factory.folder / "start", model, factory.rows, **ADAPTER)
    options = {"adapter_name_or_path": start, "max_steps": 10, **OPTIONS}
    for name, more in {"plain": {}, "checkpointed": {"disable_gradient_checkpointing": None}}.items():
        log = factory.trained(factory.config(model, out=name, **options, **more), out=name)
        torch.testing.assert_close(losses(log), expected, atol=1e-5, rtol=0)
    assert expected[0] - expected[-1] > 0.01, "training must have moved the loss for this to mean something"


def test_the_program_uses_what_was_trained(factory):
    """`score` at a λ gives the log-probs of PEFT's model at that λ, and `export` merges it."""
    model = make_model(factory.folder / "model")
    options = {**OPTIONS, "lora_target": "all", "learning_rate": 0.02, "eval_dataset": "uf", "do_eval": True}
    factory.trained(factory.config(model, max_steps=6, **options))
    out = factory.folder / "out"
    fields = json.loads((out / "adapter_config.json").read_text())
    assert fields["peft_type"] == "LAMBDA_LORA" and fields["dimensions"] == DIMENSIONS
    assert (fields["r"], fields["rank_per_dimension"], fields["lora_alpha"]) == (4, 2, 4)

    records_file = factory.folder / "pairs.jsonl"
    records_file.write_text("".join(json.dumps(row) + "\n" for row in records(2)))
    scores = []
    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(3, 27)[None]
    for name in (DIMENSIONS[0], DIMENSIONS[-1]):
        policy = ["--model", model, "--adapter", out, "--lambda", f"{name}=1"]
        arguments = ["score", *policy, "--records", records_file, "--out", factory.folder / f"{name}.jsonl"]
        subprocess.run([PROGRAM, *arguments], check=True, capture_output=True)
        scores.append((factory.folder / f"{name}.jsonl").read_text())
        subprocess.run(
            [PROGRAM, "export", *policy, "--to", "hf", factory.folder / name], check=True, capture_output=True
        )
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), out)
        with torch.no_grad(), adapted.set_lambda({name: 1}):
            found = adapted(ids).logits
            merged = AutoModelForCausalLM.from_pretrained(factory.folder / name)(ids).logits
            assert (found - base(ids).logits).abs().max() > 0.01
        torch.testing.assert_close(found, merged, atol=1e-5, rtol=0)
    assert scores[0] != scores[1] and AutoTokenizer.from_pretrained(out)


def test_what_a_lambda_adapter_excludes(factory):
    assert refusal(factory, finetuning_type="lora", lambda_rank_per_dimension=2) == (
        "`lambda_rank_per_dimension` needs `lambda_adapter: true`: set it, or leave the key out."
    )
    assert refusal(factory, lambda_adapter=True) == "`lambda_adapter` needs `finetuning_type: lora`, but it is full."
    assert refusal(factory, lambda_adapter="yes") == "`lambda_adapter` is 'yes', but it must be of type bool."
    assert refusal(factory, **{**OPTIONS, "use_unsloth": True}) == (
        "`lambda_adapter` does not work with `use_unsloth`: leave one of them out."
    )
    assert refusal(factory, lambda_adaptor=True) == "There is no key `lambda_adaptor`: did you mean `lambda_adapter`?"
    model = make_model(factory.folder / "model")
    assert refusal(factory, model, **OPTIONS, lora_target="all", use_dora=True) == (
        "`use_dora` = True is not supported by a λ-adapter: leave it out."
    )
    plain = host_adapter(factory.folder / "plain", model, factory.rows, 4)
    assert refusal(factory, model, **OPTIONS, adapter_name_or_path=plain) == (
        "`lambda_adapter` is set, but the adapter of `adapter_name_or_path` is a LORA, which has no λ: name a λ-adapter, or "
        "leave the key out."
    )
    start = host_adapter(factory.folder / "start", model, factory.rows, **ADAPTER)
    assert refusal(
        factory, model, **OPTIONS, adapter_name_or_path=start, lambda_dimensions=["honesty", "truthfulness"]
    ) == (
        "The adapter has the dimensions helpfulness, honesty, instruction_following, truthfulness, but the records are rated in "
        "honesty, truthfulness: name the same ones in `dimensions` of both."
    )
