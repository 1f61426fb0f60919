"""What one comparison is about: a model's shape, token lengths, an adapter or none; as files that all sides read.

A scenario's folder holds

    model/, reference/   Llamas in Hugging Face's format, of different random weights; the tokenizer's words are ids
    adapter/             for LoRA: an adapter in PEFT's format whose B is not zero, so that policy and reference differ
    records.jsonl        the prompts, in UltraFeedback's format
    run.toml             the run config that the program's own step reads
    tokens.json          the same prompts as token ids and target distributions, which the oracles read
"""

import json
import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
NUM_DIMENSIONS = NUM_RESPONSES = 4
FIRST_ID = 3  # below it: padding and the ids of beginning and end, which no text holds

# Words are ids, and a conversation is its words: token lengths are exactly what a scenario asks for.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


@dataclass(frozen=True)
class Scenario:
    """One comparison; the defaults are METHOD's 21-million-parameter shape with UltraFeedback-like lengths."""

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

    def with_(self, **changes) -> "Scenario":
        return replace(self, **changes)

    @property
    def num_unique_tokens(self) -> int:
        """Tokens of a step, each prompt and each response once."""
        return self.num_prompts * (self.prompt_length + sum(self.response_lengths))

    @property
    def num_targets(self) -> int:
        return self.num_prompts * sum(self.response_lengths)

    @property
    def layer_parameters(self) -> int:
        """Parameters of the decoder layers' matrices."""
        return self.num_layers * (4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size)

    @property
    def num_parameters(self) -> int:
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.layer_parameters + norms + 2 * self.vocab_size * self.hidden_size

    @property
    def num_trained(self) -> int:
        """All parameters, or the adapter's."""
        if not self.lora_rank:
            return self.num_parameters
        inputs_and_outputs = 4 * 2 * self.hidden_size + 3 * (self.hidden_size + self.intermediate_size)
        return self.num_layers * self.lora_rank * inputs_and_outputs

    def state_bytes(self, side: str) -> int:
        """Weights (the reference model's too, where a side keeps one) and the optimiser's two moments, in float32."""
        num_adapter = self.num_trained if self.lora_rank else 0
        has_reference_model = side in ("a", "b") and not self.lora_rank
        num_weights = self.num_parameters * (2 if has_reference_model else 1) + num_adapter
        return 4 * (num_weights + 2 * self.num_trained)

    def step_flops(self, num_pairs: int) -> int:
        """FLOPs of a full fine-tuning step's products, none computed twice: 2 a multiply-add, backward = 2 forwards.

        `num_pairs` counts the (query, key) pairs that attention must look at, over all prompts.
        """
        layers = 2 * self.layer_parameters * self.num_unique_tokens
        head = 2 * self.hidden_size * self.vocab_size * self.num_targets
        attention = 4 * self.hidden_size * num_pairs * self.num_layers
        return 3 * (layers + head + attention)

    def tree_pairs(self) -> int:
        """Pairs where each response sees the prompt and itself."""
        p = self.prompt_length
        of_responses = sum(r * p + r * (r + 1) // 2 for r in self.response_lengths)
        return self.num_prompts * (p * (p + 1) // 2 + of_responses)

    def chain_pairs(self) -> int:
        """Pairs where a prompt and its responses are one causal sequence."""
        length = self.prompt_length + sum(self.response_lengths)
        return self.num_prompts * (length * (length + 1) // 2)

    def write(self, parent: Path, seed: int = 1) -> Path:
        """Writes the folder, if it is not there yet, and gives its path."""
        folder = parent / self.name
        if (folder / "run.toml").exists():
            return folder
        for part, part_seed in [("model", seed), ("reference", seed + 1)]:
            self._write_model(folder / part, part_seed)
        if self.lora_rank:
            self._write_adapter(folder, seed + 2)
        self._write_records(folder, seed + 3)
        # Last: it says that the folder is whole.
        (folder / "run.toml").write_text(self._run_config())
        return folder

    def _llama(self, seed: int) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.vocab_size,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.num_layers,
                num_attention_heads=self.num_heads,
                num_key_value_heads=self.num_heads,
                max_position_embeddings=8192,
                tie_word_embeddings=False,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )

    def _write_model(self, folder: Path, seed: int) -> None:
        self._llama(seed).save_pretrained(folder)
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
        model = LlamaForCausalLM.from_pretrained(folder / "model")
        torch.manual_seed(seed)
        peft_model = get_peft_model(
            model,
            LoraConfig(
                r=self.lora_rank, lora_alpha=2 * self.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        peft_model.save_pretrained(folder / "adapter")

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
            pi_target = [[math.exp(rating - max(row)) for rating in row] for row in ratings]
            pi_target = [[weight / sum(row) for weight in row] for row in pi_target]
            prompts.append({"prompt": prompt, "responses": responses, "pi_target": pi_target})
        (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        settings = {
            "beta": self.beta,
            "lambda": self.weights,
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
        }
        (folder / "tokens.json").write_text(json.dumps({**settings, "prompts": prompts}))

    def _run_config(self) -> str:
        weights = ", ".join(f"{name} = {weight}" for name, weight in zip(DIMENSIONS, self.weights))
        return f"""\
stage = "lambda_dpo"
output_dir = "run"

[model]
path = "model"
device = "cpu"

[reference]
kind = "model"
path = "reference"

[data]
records = ["records.jsonl"]
cutoff_len = 8192

[lambda]
schedule = "fixed"
weights = {{ {weights} }}

[loss]
beta = {self.beta}
reduction = "mean"

[train]
learning_rate = {self.learning_rate}
max_grad_norm = {self.max_grad_norm}
per_device_train_batch_size = {self.num_prompts}
"""


FULL = Scenario("full")
LORA = Scenario("lora", lora_rank=8)
