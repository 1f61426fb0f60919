"""A λ-adapter exported at one λ has the same logits in Transformers and PEFT as in this project."""

import pytest
import torch
from peft import PeftConfig, PeftModel
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


def test_peft_refuses_the_adapter_of_every_lambda(tmp_path):
    write("llama31", tmp_path)
    with pytest.raises((KeyError, ValueError), match="LAMBDA_LORA"):
        PeftConfig.from_pretrained(tmp_path / "lambda_adapter")
