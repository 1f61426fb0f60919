"""Policies that the program exported, in the hands of Transformers."""

import subprocess

import pytest
import torch
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, GOLDEN_MODELS, ROOT, logits, write


def export(*arguments):
    subprocess.run(["cargo", "run", "-q", "-p", "lambda-dpo", "--", "export", *arguments], cwd=ROOT, check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_logits_are_those_with_the_adapter_on(family, tmp_path):
    values = write(family, tmp_path)
    folder = tmp_path / "exported"
    export("--model", GOLDEN_MODELS / family, "--adapter", tmp_path / "adapter", "--to", "hf", folder)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2
    found = logits(model, values["input_ids"])
    assert (found - values["base_logits"]).abs().max() > 0.1, "the adapter does something"
    torch.testing.assert_close(found, values["adapter_logits"], atol=1e-4, rtol=0)
