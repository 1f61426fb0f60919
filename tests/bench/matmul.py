"""Measures the machine's matrix products at a model's shapes: each product of a step's forward and backward.

python matmul.py SCENARIO_FOLDER
"""

import json
import sys
import time
from pathlib import Path

import torch

from serving import serve


class Products:
    """For each weight [out, in] and its input [tokens, in]: the forward, the gradient of the input, and that of the
    weight unless it is frozen, as with an adapter."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "model" / "config.json").read_text())
        settings = json.loads((folder / "tokens.json").read_text())
        prompts, dtype = settings["prompts"], getattr(torch, settings["dtype"])
        num_targets = sum(len(response) for prompt in prompts for response in prompt["responses"])
        num_tokens = num_targets + sum(len(prompt["prompt"]) for prompt in prompts)
        shapes = [(num_tokens, *shape) for shape in layer_shapes(config) * config["num_hidden_layers"]]
        shapes.append((num_targets, config["vocab_size"], config["hidden_size"]))
        self.operands = [
            (torch.randn(tokens, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype) / inputs**0.5)
            for tokens, outputs, inputs in shapes
        ]
        self.trains_weights = not (folder / "adapter").exists()
        num_products = 3 if self.trains_weights else 2
        self.flops = sum(2 * num_products * tokens * outputs * inputs for tokens, outputs, inputs in shapes)

    def step(self) -> dict:
        started = time.perf_counter()
        for inputs, weight in self.operands:
            outputs = inputs @ weight.T
            outputs @ weight
            if self.trains_weights:
                outputs.T @ inputs
        return {"seconds": time.perf_counter() - started, "flops": self.flops}


def layer_shapes(config: dict) -> list[tuple[int, int]]:
    """Shapes [out, in] of the matrices of a decoder layer."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    kv_size = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    return [(hidden, hidden)] * 2 + [(kv_size, hidden)] * 2 + [(intermediate, hidden)] * 2 + [(hidden, intermediate)]


if __name__ == "__main__":
    serve({"step": Products(Path(sys.argv[1])).step})
