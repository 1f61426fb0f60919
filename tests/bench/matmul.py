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
    """For each weight [out, in] and its input [tokens, in]: the forward and the gradients of input and weight."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "model" / "config.json").read_text())
        prompts = json.loads((folder / "tokens.json").read_text())["prompts"]
        hidden, intermediate = config["hidden_size"], config["intermediate_size"]
        num_targets = sum(len(response) for prompt in prompts for response in prompt["responses"])
        num_tokens = num_targets + sum(len(prompt["prompt"]) for prompt in prompts)
        layer = [(hidden, hidden)] * 4 + [(intermediate, hidden)] * 2 + [(hidden, intermediate)]
        shapes = [(num_tokens, *shape) for shape in layer * config["num_hidden_layers"]]
        shapes.append((num_targets, config["vocab_size"], hidden))
        self.operands = [
            (torch.randn(tokens, inputs), torch.randn(outputs, inputs) / inputs**0.5)
            for tokens, outputs, inputs in shapes
        ]
        self.flops = sum(6 * tokens * outputs * inputs for tokens, outputs, inputs in shapes)

    def step(self) -> dict:
        started = time.perf_counter()
        for inputs, weight in self.operands:
            outputs = inputs @ weight.T
            outputs @ weight
            outputs.T @ inputs
        return {"seconds": time.perf_counter() - started, "flops": self.flops}


if __name__ == "__main__":
    serve({"step": Products(Path(sys.argv[1])).step})
