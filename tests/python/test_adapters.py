"""An adapter written by this project has the same logits in PEFT, and one by PEFT here, or it is refused."""

import json
import subprocess

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, GOLDEN_MODELS, export, logits, write


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


@pytest.mark.parametrize("initialisation", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_changed_its_base_is_refused_until_peft_converts_it(initialisation, tmp_path):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / "llama31")
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=initialisation, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.peft_config["default"].init_lora_weights = True  # As PEFT documents it for the conversion.
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = initialisation
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    input_ids = torch.arange(3, 20)[None]
    expected = logits(model, input_ids)

    merge = ["--model", GOLDEN_MODELS / "llama31", "--to", "hf", tmp_path / "merged", "--adapter"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        export(*merge, tmp_path / "adapter", capture_output=True, text=True)
    assert f'`init_lora_weights` = "{initialisation}"' in refused.value.stderr
    assert "path_initial_model_for_weight_conversion" in refused.value.stderr
    converted = str(tmp_path / "converted")
    model.save_pretrained(converted, path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    export(*merge, converted)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, input_ids), expected, atol=1e-4, rtol=0)
