"""An adapter written by this project has the same logits in PEFT."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, GOLDEN_MODELS, logits, write


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_same_logits(family, tmp_path):
    values = write(family, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / family)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    found = logits(model, values["input_ids"])
    assert (found - values["base_logits"]).abs().max() > 0.1, "the adapter does something"
    torch.testing.assert_close(found, values["adapter_logits"], atol=1e-4, rtol=0)
    merged = logits(model.merge_and_unload(), values["input_ids"])
    torch.testing.assert_close(merged, values["merged_logits"], atol=1e-4, rtol=0)


def test_peft_reads_every_field(tmp_path):
    write("llama31", tmp_path)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(GOLDEN_MODELS / "llama31")
    base = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / "llama31")
    model = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 6, 0.05)
    assert set(config.target_modules) == set(written["target_modules"])
    model.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    changed = {"inference_mode", "target_modules"}
    assert {name: again[name] for name in written if name not in changed} == {
        name: value for name, value in written.items() if name not in changed
    }
