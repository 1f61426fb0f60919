"""λ-adapters on bases that bitsandbytes has quantised to 4 and 8 bits, on the CPU."""

import datasets
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import get_peft_model
from test_trainer import config, losses
from tiny import DIMENSIONS, make_model, records
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig

from lambda_dpo import ConfigError, LambdaDPOTrainer, LambdaLoraConfig
from lambda_dpo.quantised import keep_gradients

BITS = {
    4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    8: {"load_in_8bit": True},
}
IDS = torch.arange(3, 27).reshape(3, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose widths are multiples of bitsandbytes' blocks of 64 weights."""
    folder = make_model(tmp_path_factory.mktemp("model"))
    small = LlamaConfig.from_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    wide = LlamaConfig(**{**small.to_dict(), **shape})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(wide, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)
    model.save_pretrained(folder)
    return folder


def quantised(folder, bits):
    options = BitsAndBytesConfig(**BITS[bits])
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=options, device_map="cpu")


def adapted(model):
    keep_gradients(model)  # Also keeps all processors to the same arithmetic.
    torch.manual_seed(1)
    config = LambdaLoraConfig(r=2, rank_per_dimension=3, dimensions=DIMENSIONS, init_lora_weights=False)
    return get_peft_model(model, config).eval()


def dequantised(folder):
    """The model with the weights that the 4-bit ones stand for."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, module in quantised(folder, 4).named_modules():
        if type(module).__name__ == "Linear4bit":
            weights = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            model.get_submodule(name).weight.data.copy_(weights)
    return model


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_layer_adds_the_part_of_each_rows_lambda(folder, bits):
    model = adapted(quantised(folder, bits))
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    x = torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]])
    columns = torch.cat([torch.ones(3, 2), weights.repeat_interleave(3, 1)], 1)[:, None]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad(), model.set_lambda(weights):
        expected = layer.base_layer(x) + 2 * ((x @ a.T) * columns) @ b.T
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


def test_logits_and_gradients_are_those_of_the_dequantised_weights(folder):
    found, expected = adapted(quantised(folder, 4)), adapted(dequantised(folder))
    for model in (found, expected):
        model.set_lambda([{name: 1} for name in DIMENSIONS[:3]])
        model(IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, expected(IDS).logits, atol=1e-4, rtol=0)
    theirs = dict(expected.named_parameters())
    compared = [
        (weight.grad, theirs[name].grad, name) for name, weight in found.named_parameters() if weight.requires_grad
    ]
    assert len(compared) == 28
    for ours, other, name in compared:
        assert (ours - other).norm() < 1e-4 * other.norm(), name


def test_weights_without_gradients_are_refused(folder):
    """bitsandbytes packs the weights on some processors only, so the test marks them as it does."""
    model = quantised(folder, 4)
    model.get_submodule("model.layers.0.mlp.up_proj").weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        ConfigError, match="packed the 4-bit weights of `model.layers.0.mlp.up_proj` for inference on the CPU"
    ):
        keep_gradients(model)


@pytest.mark.parametrize("bits", [4, 8])
def test_merging_at_a_lambda_moves_the_weights_that_are_quantised_again(folder, bits):
    """The merged layer differs from base + adapter by the rounding to 4 or 8 bits, a share of what the adapter changes."""
    model = adapted(quantised(folder, bits))
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    identity = torch.eye(64)
    with torch.no_grad(), model.set_lambda({DIMENSIONS[1]: 1}):
        layer.lora_B["default"].weight.mul_(4)
        base, expected = layer.base_layer(identity), layer(identity)
        layer.merge()
        merged = layer(identity)
    assert (merged - expected).norm() < {4: 0.25, 8: 0.05}[bits] * (base - expected).norm()


def test_the_trainer_has_the_losses_of_the_dequantised_weights(folder, tmp_path):
    found = []
    for name, base in {"quantised": quantised(folder, 4), "whole": dequantised(folder)}.items():
        torch.manual_seed(1)
        trainer = LambdaDPOTrainer(
            base,
            args=config(tmp_path / name, max_steps=4, precompute_ref_log_probs=True, reference_cache=False),
            train_dataset=datasets.Dataset.from_list(records()),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LambdaLoraConfig(r=2, rank_per_dimension=3),
        )
        trainer.train()
        found.append(losses(trainer))
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)
    assert found[0][0] - found[0][-1] > 0.001
