"""The decoder of the floor (c): a minimal Llama with only what an SFT step needs.

Transformers' own decoder computes the same loss (oracles.py, c-hf); this one is the floor because it is faster.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


class Floor(nn.Module):
    """Plain Llama: no biases, no grouped-query attention, untied head."""

    def __init__(self, folder: Path):
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        self.num_heads, self.eps = config["num_attention_heads"], config["rms_norm_eps"]
        self.num_layers = config["num_hidden_layers"]
        self.padding_id = config["pad_token_id"]
        self.theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        weights = load_file(folder / "model.safetensors")
        # Copied, because the optimiser must not write to the pages of the mapped file.
        self.weights = nn.ParameterDict({name.replace(".", "/"): weight.clone() for name, weight in weights.items()})

    def weight(self, name: str) -> torch.Tensor:
        return self.weights[f"{name}.weight".replace(".", "/")]

    def rotary(self, length: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = self.theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.arange(length)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    def loss(self, input_ids: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = F.embedding(input_ids, self.weight("model.embed_tokens"), padding_idx=self.padding_id)
        rotary = self.rotary(input_ids.shape[1], hidden.shape[-1] // self.num_heads)
        for layer in range(self.num_layers):
            hidden = self.layer(hidden, f"model.layers.{layer}", rotary)
        hidden = self.norm(hidden.flatten(0, 1).index_select(0, positions), "model.norm")
        return F.cross_entropy(F.linear(hidden, self.weight("lm_head")), targets)

    def layer(self, hidden: torch.Tensor, path: str, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        normed = self.norm(hidden, f"{path}.input_layernorm")
        query, key, value = (
            F.linear(normed, self.weight(f"{path}.self_attn.{name}_proj"))
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for name in "qkv"
        )
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(attended, self.weight(f"{path}.self_attn.o_proj"))
        normed = self.norm(hidden, f"{path}.post_attention_layernorm")
        gated = F.silu(F.linear(normed, self.weight(f"{path}.mlp.gate_proj"))) * F.linear(
            normed, self.weight(f"{path}.mlp.up_proj")
        )
        return hidden + F.linear(gated, self.weight(f"{path}.mlp.down_proj"))

    def norm(self, hidden: torch.Tensor, path: str) -> torch.Tensor:
        return F.rms_norm(hidden, hidden.shape[-1:], self.weight(path), self.eps)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin
