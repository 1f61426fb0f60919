"""Scenarios of the comparisons: model shape, token lengths and adapter, written as files that all sides read.

A scenario's folder contains

    model/, reference/   Llamas in Hugging Face's format with different random weights; the tokenizer's words are ids
    adapter/             for LoRA: an adapter in PEFT's format whose B is not zero, so that policy and reference differ
    records.jsonl        the prompts, in UltraFeedback's format
    run.toml             the run config that the program's step reads
    tokens.json          the same prompts as token ids and target distributions, which the oracles read
"""

import ctypes
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
NUM_DIMENSIONS = NUM_RESPONSES = 4
FIRST_ID = 3  # The ids below it are padding, BOS and EOS, which do not occur in texts.

# Words are ids and the template adds nothing, so that lengths in tokens are exactly those of the scenario.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


@dataclass(frozen=True)
class Scenario:
    """One comparison; the defaults are docs/method.md's 21-million-parameter shape with UltraFeedback-like lengths."""

    name: str
    vocab_size: int = 32_000
    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 8
    intermediate_size: int = 688
    prompt_length: int = 200
    response_lengths: tuple[int, ...] = (150, 240, 310, 380)
    num_prompts: int = 1
    lora_rank: int = 0
    beta: float = 5.0
    learning_rate: float = 1e-6
    max_grad_norm: float = 1.0
    weights: tuple[float, ...] = field(default=(0.4, 0.3, 0.2, 0.1))
    num_kv_heads: int = 0  # 0 means num_heads.
    is_tied: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    checkpointing: bool = False
    # Tokens of a packed row, which then holds several prompts; 0: each prompt has a row of its own.
    row_tokens: int = 0
    # Each side draws its own weights, if only speed is compared; writing the folder then needs only torch.
    draws_weights: bool = False

    def with_(self, **changes) -> "Scenario":
        return replace(self, **changes)

    @property
    def num_unique_tokens(self) -> int:
        """Tokens in a step, with each prompt and each response counted once."""
        return self.num_prompts * (self.prompt_length + sum(self.response_lengths))

    @property
    def num_targets(self) -> int:
        return self.num_prompts * sum(self.response_lengths)

    @property
    def has_reference_model(self) -> bool:
        """Whether the reference is a model of its own."""
        return not self.draws_weights

    @property
    def dimensions(self) -> list[str]:
        """Names of the dimensions that the records are rated in."""
        return DIMENSIONS

    @property
    def layer_parameters(self) -> int:
        """Number of parameters in the matrices of the decoder layers."""
        attention = 2 * self.hidden_size * (self.hidden_size + self.kv_size)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def kv_size(self) -> int:
        """Width of the keys, and of the values."""
        return self.hidden_size * (self.num_kv_heads or self.num_heads) // self.num_heads

    @property
    def num_parameters(self) -> int:
        norms = (2 * self.num_layers + 1) * self.hidden_size
        num_embeddings = 1 if self.is_tied else 2
        return self.layer_parameters + norms + num_embeddings * self.vocab_size * self.hidden_size

    @property
    def num_trained(self) -> int:
        """Number of trained parameters: all, or the adapter's."""
        if not self.lora_rank:
            return self.num_parameters
        of_attention = 6 * self.hidden_size + 2 * self.kv_size
        of_mlp = 3 * (self.hidden_size + self.intermediate_size)
        return self.num_layers * self.lora_rank * (of_attention + of_mlp)

    def state_bytes(self, side: str) -> int:
        """Bytes of float32 weights (with the reference model's, if a side keeps one) and both optimiser moments."""
        num_adapter = self.num_trained if self.lora_rank else 0
        has_reference_model = side in ("a", "b") and not self.lora_rank
        num_weights = self.num_parameters * (2 if has_reference_model else 1) + num_adapter
        return 4 * (num_weights + 2 * self.num_trained)

    def step_flops(self, num_pairs: int) -> int:
        """FLOPs of the matrix products of a step without recomputation: 2 per multiply-add, backward = 2 forwards.

        With an adapter, there are no gradients of the weights, and the adapter's own products are not counted.
        `num_pairs` is the number of visible (query, key) pairs in attention, over all prompts.
        """
        layers, attention, head = self.forward_flops(num_pairs)
        return (2 if self.lora_rank else 3) * (layers + head) + 3 * attention

    def forward_flops(self, num_pairs: int) -> tuple[int, int, int]:
        """FLOPs of a forward pass: of the layers' matrices, of attention, and of the head at the targets."""
        return self.forward_flops_of(self.num_unique_tokens, num_pairs, self.num_targets)

    def forward_flops_of(self, num_tokens: int, num_pairs: int, num_logits: int) -> tuple[int, int, int]:
        """The same of any forward pass, whose head runs at `num_logits` positions."""
        layers = 2 * self.layer_parameters * num_tokens
        attention = 4 * self.hidden_size * num_pairs * self.num_layers
        head = 2 * self.hidden_size * self.vocab_size * num_logits
        return layers, attention, head

    def tree_pairs(self) -> int:
        """Visible pairs if each response attends to the prompt and itself."""
        p = self.prompt_length
        of_responses = sum(r * p + r * (r + 1) // 2 for r in self.response_lengths)
        return self.num_prompts * (p * (p + 1) // 2 + of_responses)

    def chain_pairs(self) -> int:
        """Visible pairs if a prompt and its responses are one causal sequence."""
        length = self.prompt_length + sum(self.response_lengths)
        return self.num_prompts * (length * (length + 1) // 2)

    def write(self, parent: Path, seed: int = 1) -> Path:
        """Writes the folder, unless it exists already, and returns its path."""
        folder = parent / self.name
        if (folder / "run.toml").exists():
            return folder
        self._write_models(folder, seed)
        if self.lora_rank:
            self._write_adapter(folder, seed + 2)
        self._write_records(folder, seed + 3)
        # Written last, because it marks the folder as complete.
        (folder / "run.toml").write_text(self._run_config())
        return folder

    def model_config(self) -> dict:
        """Contents of config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads or self.num_heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.is_tied,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    def _write_models(self, folder: Path, seed: int) -> None:
        """Writes the model and the reference."""
        if self.draws_weights:
            self._write_model(folder / "model", None)
            return
        for part, part_seed in [("model", seed), ("reference", seed + 1)]:
            self._write_model(folder / part, part_seed)

    def _write_model(self, folder: Path, seed: int | None) -> None:
        """Writes the config, the tokenizer and, if there is a seed, the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        if seed is None:
            (folder / "config.json").write_text(json.dumps(self.model_config()))
        else:
            from transformers import LlamaConfig, LlamaForCausalLM

            torch.manual_seed(seed)
            LlamaForCausalLM(LlamaConfig(**self.model_config())).save_pretrained(folder)
        words = {f"w{index}": index for index in range(self.vocab_size)}
        tokenizer = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        }
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        settings = {"pad_token": "w0", "chat_template": CHAT_TEMPLATE}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    def _write_adapter(self, folder: Path, seed: int) -> None:
        """Writes the adapter in PEFT's format."""
        (folder / "adapter").mkdir()
        write_safetensors(folder / "adapter" / "adapter_model.safetensors", self._adapter_tensors(seed))
        settings = self._adapter_settings(folder / "model")
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))

    def _adapted_layers(self) -> dict[str, tuple[int, int]]:
        """Numbers of outputs and inputs of the linear layers that the adapter adapts, which are all, by their paths."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        linear = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (self.kv_size, hidden),
            "self_attn.v_proj": (self.kv_size, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
        }
        layers = range(self.num_layers)
        return {f"model.layers.{layer}.{name}": shape for layer in layers for name, shape in linear.items()}

    def _adapter_tensors(self, seed: int) -> dict[str, torch.Tensor]:
        """The matrices of a LoRA whose B is not zero, by their names in PEFT's file."""
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, (outputs, inputs) in self._adapted_layers().items():
            path = f"base_model.model.{name}"
            a = torch.rand(self.lora_rank, inputs, generator=generator) * 2 - 1
            tensors[f"{path}.lora_A.weight"] = a / inputs**0.5
            tensors[f"{path}.lora_B.weight"] = 0.02 * torch.randn(outputs, self.lora_rank, generator=generator)
        return tensors

    def _adapter_settings(self, model: Path) -> dict:
        """Contents of adapter_config.json."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(model),
            "r": self.lora_rank,
            "lora_alpha": 2 * self.lora_rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(dict.fromkeys(path.split(".")[-1] for path in self._adapted_layers())),
        }

    def _write_records(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        draw = lambda length: [rng.randrange(FIRST_ID, self.vocab_size) for _ in range(length)]
        text = lambda ids: " ".join(f"w{index}" for index in ids)
        records, prompts = [], []
        for _ in range(self.num_prompts):
            prompt, responses = draw(self.prompt_length), [draw(length) for length in self.response_lengths]
            ratings = [[rng.randint(1, 5) for _ in responses] for _ in DIMENSIONS]
            completions = [
                {
                    "response": text(response),
                    "annotations": {name: {"Rating": str(ratings[k][i])} for k, name in enumerate(DIMENSIONS)},
                }
                for i, response in enumerate(responses)
            ]
            records.append({"instruction": text(prompt), "completions": completions})
            prompts.append({"prompt": prompt, "responses": responses, "pi_target": target_distributions(ratings)})
        (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        self._write_tokens(folder, prompts)

    def _write_tokens(self, folder: Path, prompts: list[dict]) -> None:
        """Writes what the oracles read: prompts as token ids with their target distributions, and the settings."""
        settings = {
            "beta": self.beta,
            "lambda": self.weights,
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
            "dtype": self.dtype,
        }
        (folder / "tokens.json").write_text(json.dumps({**settings, "prompts": prompts}))

    def _run_config(self) -> str:
        weights = ", ".join(f"{name} = {weight}" for name, weight in zip(self.dimensions, self.weights))
        row_tokens = f"max_tokens = {self.row_tokens}\n" if self.row_tokens else ""
        reference = '\n[reference]\nkind = "model"\npath = "reference"\n' if self.has_reference_model else ""
        return f"""\
stage = "lambda_dpo"
output_dir = "run"

[model]
path = "model"
init = "{"random" if self.draws_weights else "pretrained"}"
device = "{self.device}"
dtype = "{self.dtype}"
{reference}
[data]
records = ["records.jsonl"]
cutoff_len = 8192

[lambda]
schedule = "fixed"
weights = {{ {weights} }}

[loss]
beta = {self.beta}
reduction = "mean"
{row_tokens}
[train]
learning_rate = {self.learning_rate}
max_grad_norm = {self.max_grad_norm}
per_device_train_batch_size = {self.num_prompts}
gradient_checkpointing = {str(self.checkpointing).lower()}
"""


def target_distributions(ratings: Sequence[Sequence[float]]) -> list[list[float]]:
    """The softmax of each dimension's ratings, [M][N]."""
    weights = [[math.exp(rating - max(row)) for rating in row] for row in ratings]
    return [[weight / sum(row) for weight in row] for row in weights]


def write_safetensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes float32 tensors as safetensors, without the package, which a machine with only torch does not have."""
    header, start = {}, 0
    for name, tensor in tensors.items():
        end = start + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            tensor = tensor.contiguous()
            out.write(ctypes.string_at(tensor.data_ptr(), 4 * tensor.numel()))


FULL = Scenario("full")
LORA = Scenario("lora", lora_rank=8)
