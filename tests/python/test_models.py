"""A model written by this project has the same logits in Transformers."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, logits, write


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_the_same_logits(family, tmp_path):
    values = write(family, tmp_path)
    for folder, name in [("model", "base_logits"), ("merged", "merged_logits")]:
        model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
        assert model.dtype == torch.float32
        torch.testing.assert_close(logits(model, values["input_ids"]), values[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama31", "qwen3"])
def test_config_json_has_the_dtype_of_the_weights(family, tmp_path):
    """Both in its older spelling (llama31) and in its newer one (qwen3)."""
    values = write(family, tmp_path, "bfloat16")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["dtype" if family == "qwen3" else "torch_dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    found = logits(model, values["input_ids"])
    assert (found - values["base_logits"]).abs().mean() < 0.05
