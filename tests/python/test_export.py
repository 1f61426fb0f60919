"""Policies that the program exported, loaded with Transformers, ONNX Runtime and PyTorch."""

import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM
from written_models import FAMILIES, GOLDEN_MODELS, export, logits, write

INPUTS = ["input_ids", "attention_mask", "position_ids"]
# Rows and tokens, some longer than the attention windows of 8 and some shorter.
SHAPES = [(1, 5), (2, 30), (3, 17)]


def batch(shape):
    """Random tokens; the last row ends with padding."""
    generator = torch.Generator().manual_seed(sum(shape))
    input_ids = torch.randint(3, 128, shape, generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, -2:] = 0
    return input_ids, attention_mask, torch.arange(shape[1]).expand(shape).contiguous()


def check_log_probs(family, policy, tolerance, dtype=torch.float32):
    """Compares with Transformers in float32, with weights rounded to `dtype` so that only the computation differs."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / family, attn_implementation="eager").to(dtype).float()
    for shape in SHAPES:
        input_ids, attention_mask, position_ids = batch(shape)
        with torch.no_grad():
            expected = model(input_ids=input_ids, attention_mask=attention_mask).logits.log_softmax(-1)
        found = policy(input_ids, attention_mask, position_ids).float().log_softmax(-1)
        is_token = attention_mask.bool()
        torch.testing.assert_close(found[is_token], expected[is_token], atol=tolerance, rtol=0)


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


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-4), ("float16", 1e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_runtime_agrees_with_transformers(family, dtype, tolerance, tmp_path):
    export("--model", GOLDEN_MODELS / family, "--to", "onnx", "--dtype", dtype, tmp_path / "exported")
    path = tmp_path / "exported" / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def policy(*inputs):
        (logits,) = session.run(["logits"], {name: value.numpy() for name, value in zip(INPUTS, inputs)})
        return torch.from_numpy(logits)

    check_log_probs(family, policy, tolerance, getattr(torch, dtype))


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_loads_the_module(family, tmp_path):
    export("--model", GOLDEN_MODELS / family, "--to", "torchscript", tmp_path / "exported")
    module = torch.jit.load(tmp_path / "exported" / "model.pt")
    with torch.no_grad():
        check_log_probs(family, module, 1e-4)
    module.to(torch.bfloat16)
    assert module(*batch((1, 5))).dtype == torch.bfloat16
