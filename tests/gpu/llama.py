"""A Llama in plain PyTorch with random weights: the two steps that ours is compared with on a GPU.

    python llama.py b|c SCENARIO_FOLDER      serves `step`

(b) is the paper's loss without duplicate rows: 4 rows per prompt, with the reference run in each step. (c) is plain SFT
on `[prompt][y_1]...[y_N]` as one causal sequence. Both compute logits only at target positions.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NUM_DIMENSIONS = NUM_RESPONSES = 4


class Llama:
    """Llama with grouped-query attention, a tied or untied head, and LoRA in all linear layers or in none."""

    def __init__(self, config: dict, device: str, dtype: torch.dtype, lora_rank: int, checkpointing: bool):
        self.config, self.checkpointing = config, checkpointing
        hidden, intermediate = config["hidden_size"], config["intermediate_size"]
        head_dim = hidden // config["num_attention_heads"]
        kv_size = head_dim * config["num_key_value_heads"]
        shapes = {"embed": (config["vocab_size"], hidden), "norm": (hidden,)}
        if not config["tie_word_embeddings"]:
            shapes["head"] = (config["vocab_size"], hidden)
        linear = {
            "q": (hidden, hidden),
            "k": (kv_size, hidden),
            "v": (kv_size, hidden),
            "o": (hidden, hidden),
            "gate": (intermediate, hidden),
            "up": (intermediate, hidden),
            "down": (hidden, intermediate),
        }
        for layer in range(config["num_hidden_layers"]):
            shapes |= {f"{layer}.{name}": shape for name, shape in linear.items()}
            shapes |= {f"{layer}.norm1": (hidden,), f"{layer}.norm2": (hidden,)}
        draw = lambda shape: torch.ones(shape, device=device, dtype=dtype) if len(shape) == 1 else (
            torch.randn(shape, device=device, dtype=dtype) * 0.02
        )
        self.weights = {name: draw(shape) for name, shape in shapes.items()}
        self.adapter = {}
        if lora_rank:
            for name, shape in shapes.items():
                if name.split(".")[-1] in linear:
                    out, inputs = shape
                    self.adapter[f"{name}.a"] = torch.randn(lora_rank, inputs, device=device) * inputs**-0.5
                    self.adapter[f"{name}.b"] = torch.zeros(out, lora_rank, device=device)
        for parameter in self.parameters():
            parameter.requires_grad_()
        self.head_dim, self.uses_adapter = head_dim, bool(lora_rank)

    def parameters(self) -> list[torch.Tensor]:
        return list((self.adapter or self.weights).values())

    def head(self) -> torch.Tensor:
        return self.weights.get("head", self.weights["embed"])

    def linear(self, value: torch.Tensor, name: str) -> torch.Tensor:
        output = F.linear(value, self.weights[name])
        if not self.uses_adapter:
            return output
        a, b = (self.adapter[f"{name}.{part}"].to(value.dtype) for part in "ab")
        return output + F.linear(2.0 * F.linear(value, a), b)

    def norm(self, value: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(value, value.shape[-1:], self.weights[name], self.config["rms_norm_eps"])

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[R, T, H] after the final norm, with plain causal attention."""
        value = F.embedding(input_ids, self.weights["embed"])
        frequencies = self.config["rope_theta"] ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = torch.arange(input_ids.shape[1])[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        rotary = [part.to(value) for part in (angles.cos(), angles.sin())]
        for layer in range(self.config["num_hidden_layers"]):
            if self.checkpointing and torch.is_grad_enabled():
                value = checkpoint(self.layer, value, layer, rotary, use_reentrant=False)
            else:
                value = self.layer(value, layer, rotary)
        return self.norm(value, "norm")

    def layer(self, value: torch.Tensor, layer: int, rotary: list[torch.Tensor]) -> torch.Tensor:
        normed = self.norm(value, f"{layer}.norm1")
        heads = lambda name: self.linear(normed, f"{layer}.{name}").unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key = rotate(heads("q"), *rotary), rotate(heads("k"), *rotary)
        attended = F.scaled_dot_product_attention(query, key, heads("v"), is_causal=True, enable_gqa=True)
        value = value + self.linear(attended.transpose(1, 2).flatten(2), f"{layer}.o")
        normed = self.norm(value, f"{layer}.norm2")
        gated = F.silu(self.linear(normed, f"{layer}.gate")) * self.linear(normed, f"{layer}.up")
        return value + self.linear(gated, f"{layer}.down")


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


class Sft:
    """Side (c): SFT on one causal sequence per prompt."""

    def __init__(self, model: Llama, settings: dict, device: str):
        self.model = model
        prompts = settings["prompts"]
        self.input_ids = torch.tensor([prompt["prompt"] + sum(prompt["responses"], []) for prompt in prompts]).to(device)
        length = len(prompts[0]["prompt"])
        predicts = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        predicts[:, length - 1 : -1] = True
        self.positions = predicts.flatten().nonzero().squeeze(1).to(device)
        self.targets = self.input_ids[:, length:].flatten()

    def loss(self) -> torch.Tensor:
        hidden = self.model.hidden(self.input_ids).flatten(0, 1).index_select(0, self.positions)
        return F.cross_entropy(F.linear(hidden, self.model.head()).float(), self.targets)


class Listwise:
    """Side (b): the listwise loss; sequence log-probs are means, as in Appendix B."""

    def __init__(self, model: Llama, reference: Llama | None, settings: dict, device: str):
        self.model, self.reference, self.settings = model, reference, settings
        rows, positions, targets, sequences = [], [], [], []
        prompts = settings["prompts"]
        width = max(len(prompt["prompt"]) + len(response) for prompt in prompts for response in prompt["responses"])
        for prompt in prompts:
            for response in prompt["responses"]:
                at, length = len(rows), len(prompt["prompt"])
                row = prompt["prompt"] + response
                rows.append(row + [0] * (width - len(row)))
                positions.extend(at * width + length - 1 + i for i in range(len(response)))
                targets.extend(response)
                sequences.extend([at] * len(response))
        on_device = lambda values: torch.tensor(values).to(device)
        self.input_ids, self.positions, self.targets = on_device(rows), on_device(positions), on_device(targets)
        self.sequences = on_device(sequences)
        self.lengths = torch.bincount(self.sequences, minlength=len(rows))
        # [B, M, N]
        self.pi_target = on_device([prompt["pi_target"] for prompt in prompts])
        self.weights = on_device(settings["lambda"])

    def mean_log_probs(self, model: Llama) -> torch.Tensor:
        hidden = model.hidden(self.input_ids).flatten(0, 1).index_select(0, self.positions)
        log_probs = F.linear(hidden, model.head()).float().log_softmax(-1)
        token_log_probs = log_probs.gather(1, self.targets[:, None]).squeeze(1)
        sums = torch.zeros(len(self.lengths), device=token_log_probs.device)
        return sums.index_add(0, self.sequences, token_log_probs) / self.lengths

    @torch.no_grad()
    def reference_log_probs(self) -> torch.Tensor:
        if self.reference is not None:
            return self.mean_log_probs(self.reference)
        self.model.uses_adapter = False
        log_probs = self.mean_log_probs(self.model)
        self.model.uses_adapter = True
        return log_probs

    def loss(self) -> torch.Tensor:
        reference = self.reference_log_probs()
        rewards = self.settings["beta"] * (self.mean_log_probs(self.model) - reference)
        log_policy = rewards.view(-1, 1, NUM_RESPONSES).log_softmax(-1)
        by_dimension = -(self.pi_target * log_policy).sum(-1).mean(0)
        return (self.weights * by_dimension).sum()


class Learner:
    """Training step with gradient clipping and AdamW with float32 master weights and moments, as in ours."""

    def __init__(self, side: str, folder: Path):
        settings, run = json.loads((folder / "tokens.json").read_text()), json.loads((folder / "gpu.json").read_text())
        config = json.loads((folder / "model" / "config.json").read_text())
        self.device, self.max_grad_norm = run["device"], settings["max_grad_norm"]
        make = lambda rank: Llama(config, run["device"], getattr(torch, run["dtype"]), rank, run["checkpointing"])
        self.model = make(run["lora_rank"])
        if side == "c":
            self.side = Sft(self.model, settings, self.device)
        else:
            reference = None
            if not run["lora_rank"]:
                reference = make(0)
                for parameter in reference.parameters():
                    parameter.requires_grad_(False)
            self.side = Listwise(self.model, reference, settings, self.device)
        self.parameters = self.model.parameters()
        self.masters = [parameter.detach().float() for parameter in self.parameters]
        for master in self.masters:
            master.requires_grad_()
        self.optimizer = torch.optim.AdamW(self.masters, lr=settings["learning_rate"], weight_decay=0.0, fused=True)

    def synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def step(self) -> dict:
        self.synchronize()
        started = time.perf_counter()
        loss = self.side.loss()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        for parameter, master in zip(self.parameters, self.masters):
            master.grad = parameter.grad.float()
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters):
                parameter.copy_(master)
        self.synchronize()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "loss": loss.item(), "grad_norm": grad_norm.item()}


if __name__ == "__main__":
    from serving import serve

    serve({"step": Learner(sys.argv[1], Path(sys.argv[2])).step})
