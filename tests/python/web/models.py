"""Tiny models and λ-adapters for the page: one that answers, and one whose every answer is markup without an end."""

import json
import shutil
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[3]
DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
DEMO_MODEL = ROOT / "fixtures" / "demo" / "sft-model"

#: What the model of `write_markup_model` says: elements that would run a script if they were taken for HTML.
MARKUP = ['<img src="/x" onerror="window.hacked = true">', "<script>window.hacked = true</script>"]


def write_adapter(folder, dimensions, seed=0, model=DEMO_MODEL, spread=0.3):
    """Writes a λ-adapter with random values, so large that the text depends on λ; returns its folder."""
    rank, random = 2, numpy.random.default_rng(seed)
    width = rank * len(dimensions)
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            continue
        num_outputs, num_inputs = weight.shape
        path = f"base_model.model.{name.removesuffix('.weight')}"
        # [R, in] and [out, R]: a pair of rank 2 for each dimension, and no shared one.
        tensors[f"{path}.lora_A.weight"] = random.normal(0, num_inputs**-0.5, (width, num_inputs)).astype("float32")
        tensors[f"{path}.lora_B.weight"] = random.normal(0, spread, (num_outputs, width)).astype("float32")
    config = {
        "peft_type": "LAMBDA_LORA",
        "r": 0,
        "rank_per_dimension": rank,
        "lora_alpha": rank,
        "target_modules": "all-linear",
        "dimensions": list(dimensions),
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_markup_model(folder):
    """Writes a model that says one piece of MARKUP after another, each as likely, and never ends; returns its folder.

    Every embedding is the same vector and every layer adds zero, so the logits are constant: 30 for the tokens of
    MARKUP, 0 for all others.
    """
    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    first = config["vocab_size"]
    for offset, text in enumerate(MARKUP):
        flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], False)
        tokenizer["added_tokens"].append({"id": first + offset, "content": text, **flags})
    config |= {
        "vocab_size": first + len(MARKUP),
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": False,
    }
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(DEMO_MODEL / "tokenizer_config.json", folder)

    size, vocabulary = config["hidden_size"], config["vocab_size"]
    layer = "model.layers.0"
    shapes = {
        "model.norm.weight": [size],
        f"{layer}.input_layernorm.weight": [size],
        f"{layer}.post_attention_layernorm.weight": [size],
        f"{layer}.self_attn.q_proj.weight": [8, size],
        f"{layer}.self_attn.k_proj.weight": [4, size],
        f"{layer}.self_attn.v_proj.weight": [4, size],
        f"{layer}.self_attn.o_proj.weight": [size, 8],
        f"{layer}.mlp.gate_proj.weight": [8, size],
        f"{layer}.mlp.up_proj.weight": [8, size],
        f"{layer}.mlp.down_proj.weight": [size, 8],
    }
    tensors = {
        name: (numpy.ones if name.endswith("norm.weight") else numpy.zeros)(shape, "float32")
        for name, shape in shapes.items()
    }
    tensors["model.embed_tokens.weight"] = numpy.ones([vocabulary, size], "float32")
    tensors["lm_head.weight"] = numpy.zeros([vocabulary, size], "float32")
    tensors["lm_head.weight"][first:] = 30 / size
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_chat_template(folder):
    """Copies the demo's model without its chat template; returns the folder."""
    shutil.copytree(DEMO_MODEL, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    path.write_text(json.dumps(config))
    return folder
