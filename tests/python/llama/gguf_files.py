"""Writes a Llama model, and LoRAs of it in PEFT's format, as GGUF files, as llama.cpp's converters do."""

import json

import gguf
import numpy as np
from safetensors.numpy import load_file

#: GGUF's names of the parts of a layer.
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def _config(model):
    return json.loads((model / "config.json").read_text())


def _name(module):
    """GGUF's name of a module of Transformers."""
    if module in _OTHERS:
        return _OTHERS[module]
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}"


def _rows(module, matrix, config):
    """Reorders the rows of queries and keys: llama.cpp rotates neighbours, Transformers the halves of a head."""
    if not module.endswith(("q_proj", "k_proj")):
        return matrix
    num_heads = config["num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"]
    halves = matrix.reshape(num_heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))


def _write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(model, out, dtype="f32"):
    """Writes the model of a folder without its tokenizer: llama.cpp is given token ids. Norms are always float32."""
    config = _config(model)
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    file_type, kind = {
        "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
        "bf16": (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    }[dtype]
    writer.add_file_type(file_type)
    writer.add_tokenizer_model("none")
    for name, tensor in load_file(model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        rows = _rows(module, tensor.astype(np.float32), config)
        kind_of_rows = kind if rows.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{_name(module)}.weight", gguf.quantize(rows, kind_of_rows), raw_dtype=kind_of_rows)
    _write(writer)


def write_lora(adapter, model, out):
    """Writes a LoRA in PEFT's format, of the model of a folder."""
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        module, matrix = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        rows = _rows(module, tensor, _config(model)) if matrix == "B" else tensor
        writer.add_tensor(f"{_name(module)}.weight.lora_{matrix.lower()}", rows)
    _write(writer)
