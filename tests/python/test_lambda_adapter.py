"""A λ-adapter exported at one λ, or as LoRAs to mix, has the same logits in Transformers and PEFT as in this project."""

import json

import pytest
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from test_export import export
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, GOLDEN_MODELS, logits, write


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lambda_adapter_at_one_lambda_is_a_model_and_a_lora(family, tmp_path):
    """Both the merged model in Transformers and the LoRA in PEFT have the live adapter's logits to 1e-5."""
    values = write(family, tmp_path)
    live = values["lambda_logits"]
    assert (live - values["base_logits"]).abs().max() > 0.1, "the adapter does something"
    from_adapter = ["--model", GOLDEN_MODELS / family, "--adapter", tmp_path / "lambda_adapter", "--lambda", "a=0.5,b=0.2"]
    export(*from_adapter, "--to", "hf", tmp_path / "merged_at_lambda")
    export(*from_adapter, "--to", "peft", tmp_path / "lora")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged_at_lambda")
    lora = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / family), tmp_path / "lora")
    for model in (merged, lora):
        torch.testing.assert_close(logits(model, values["input_ids"]), live, atol=1e-5, rtol=0)


def load_loras(base, folder):
    """Loads the LoRAs of an `export --to loras`; returns the model, and the dimension of each adapter by its name."""
    adapters = json.loads((folder / "lambda.json").read_text())["adapters"]
    first, *others = [adapter["folder"] for adapter in adapters]
    model = PeftModel.from_pretrained(base, folder / first, adapter_name=first)
    for name in others:
        model.load_adapter(folder / name, adapter_name=name)
    return model, {adapter["folder"]: adapter["dimension"] for adapter in adapters}


def scales(dimensions, weights):
    """Scale of each adapter: 1 for the shared one, else the dimension's weight."""
    return {name: 1.0 if dimension is None else weights[dimension] for name, dimension in dimensions.items()}


def set_lambda(model, dimensions, weights):
    """Makes all adapters active, each at its scale."""
    model.base_model.set_adapter(list(dimensions))
    for name, scale in scales(dimensions, weights).items():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(name, scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loras_of_a_lambda_adapter_sum_to_it(family, tmp_path):
    """With all adapters active at scales (1, λ), and concatenated to one, PEFT has the live adapter's logits to 1e-5."""
    values = write(family, tmp_path)
    source = ["--model", GOLDEN_MODELS / family, "--adapter", tmp_path / "lambda_adapter"]
    export(*source, "--to", "loras", tmp_path / "loras")
    base = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / family)
    model, dimensions = load_loras(base, tmp_path / "loras")
    assert list(dimensions.items()) == [("shared", None), ("dimension-1", "a"), ("b", "b"), ("c", "c")]

    def check(expected, atol=1e-5):
        torch.testing.assert_close(logits(model, values["input_ids"]), expected, atol=atol, rtol=0)

    weights = {"a": 0.5, "b": 0.2, "c": 0.3}
    set_lambda(model, dimensions, weights)
    check(values["lambda_logits"])
    # λ can be changed at any time.
    set_lambda(model, dimensions, {"a": 0.0, "b": 1.0, "c": 0.0})
    at_b = logits(model, values["input_ids"])
    assert (at_b - values["lambda_logits"]).abs().max() > 0.1, "λ does something"
    set_lambda(model, dimensions, weights)
    check(values["lambda_logits"])

    # `add_weighted_adapter` takes the scales as they are, so the adapters' own are set back to 1.
    set_lambda(model, dimensions, dict.fromkeys("abc", 1.0))
    for name, mixed in {"mixed": weights, "only_b": {"a": 0.0, "b": 1.0, "c": 0.0}}.items():
        adapters = scales(dimensions, mixed)
        model.add_weighted_adapter(list(adapters), list(adapters.values()), name, combination_type="cat")
    model.set_adapter("mixed")
    check(values["lambda_logits"])
    model.set_adapter("only_b")
    # Both sides are PEFT's, in another order of summation; one rounding of the logits, which reach 16, is 1e-6.
    check(at_b, atol=5e-5)


def test_peft_refuses_the_adapter_of_every_lambda(tmp_path):
    write("llama31", tmp_path)
    with pytest.raises((KeyError, ValueError), match="LAMBDA_LORA"):
        PeftConfig.from_pretrained(tmp_path / "lambda_adapter")
