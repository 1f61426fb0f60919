"""Scenarios of a real chat model and real records, as folders of the kind that scenario.py describes."""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scenario import Scenario, target_distributions

# Ranks of a λ-adapter that do not depend on λ; its dimensions share the others.
SHARED_RANK = 4


@dataclass(frozen=True)
class Tokenized:
    """A record in UltraFeedback's schema with its token ids."""

    record: dict
    prompt: list[int]
    responses: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of each response, each counted once."""
        return len(self.prompt) + self.num_targets

    @property
    def num_targets(self) -> int:
        return sum(len(response) for response in self.responses)

    @property
    def dimensions(self) -> list[str]:
        """Sorted, as in the program if a run names none."""
        return sorted(self.record["completions"][0]["annotations"])

    @property
    def num_pairs(self) -> int:
        """Visible (query, key) pairs if each response attends to the prompt and itself."""
        start = len(self.prompt)
        of_responses = sum(len(ids) * start + len(ids) * (len(ids) + 1) // 2 for ids in self.responses)
        return start * (start + 1) // 2 + of_responses

    def pi_target(self) -> list[list[float]]:
        rating = lambda completion, name: float(completion["annotations"][name]["Rating"])
        completions = self.record["completions"]
        return target_distributions([[rating(each, name) for each in completions] for name in self.dimensions])


def read_records(file: Path, model: Path) -> list[Tokenized]:
    """Reads and tokenises records: a response is what the chat template adds to the prompt for it."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [tokenize(json.loads(line), tokenizer) for line in file.read_text(encoding="utf-8").splitlines()]


def tokenize(record: dict, tokenizer: PreTrainedTokenizerBase) -> Tokenized:
    def encode(messages: list[dict], add_generation_prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    question = {"role": "user", "content": record["instruction"]}
    prompt = encode([question], add_generation_prompt=True)
    responses = []
    for completion in record["completions"]:
        answer = {"role": "assistant", "content": completion["response"]}
        conversation = encode([question, answer], add_generation_prompt=False)
        if conversation[: len(prompt)] != prompt:
            raise SystemExit(f"The chat template changes the prompt with its answer, record {record['instruction']!r}.")
        responses.append(conversation[len(prompt) :])
    return Tokenized(record, prompt, responses)


@dataclass(frozen=True)
class ChatScenario(Scenario):
    """A step of a LoRA of all linear layers on a folder's model and given records."""

    # Of a mean log-prob in bfloat16, some hundredths are rounding: a larger β would make gradients of them.
    beta: float = 1.0
    source: Path = Path()
    records: tuple[Tokenized, ...] = ()
    # As in the config's `model.quantize`; empty: not at all.
    quantize: str = ""

    @classmethod
    def of(cls, source: Path, records: list[Tokenized], **fields) -> "ChatScenario":
        """A scenario with the shape of the model in the folder `source`."""
        config = json.loads((source / "config.json").read_text())
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        if config["model_type"] != "llama" or config.get("head_dim", hidden // heads) * heads != hidden:
            raise SystemExit(f"{source} is not a Llama whose heads together are as wide as its hidden states.")
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=hidden,
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config["num_key_value_heads"],
            intermediate_size=config["intermediate_size"],
            is_tied=config["tie_word_embeddings"],
            source=source,
            records=tuple(records),
            num_prompts=len(records),
            **fields,
        )

    @property
    def num_unique_tokens(self) -> int:
        return sum(record.num_tokens for record in self.records)

    @property
    def num_targets(self) -> int:
        return sum(record.num_targets for record in self.records)

    @property
    def dimensions(self) -> list[str]:
        return self.records[0].dimensions

    @property
    def has_reference_model(self) -> bool:
        """The reference is the model without its adapter."""
        return False

    def tree_pairs(self) -> int:
        return sum(record.num_pairs for record in self.records)

    def _run_config(self) -> str:
        config = super()._run_config()
        if self.quantize:
            config = config.replace("[model]\n", f'[model]\nquantize = "{self.quantize}"\n')
            # Weights in 4 bits are refused without an adapter.
            config += f"\n[adapter]\nrank = {self.lora_rank}\n"
        return config

    def _write_models(self, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "model").symlink_to(self.source.resolve())

    def _write_records(self, folder: Path, seed: int) -> None:
        write_records(folder / "records.jsonl", self.records)
        prompts = [
            {"prompt": record.prompt, "responses": record.responses, "pi_target": record.pi_target()}
            for record in self.records
        ]
        self._write_tokens(folder, prompts)


@dataclass(frozen=True)
class LambdaScenario(ChatScenario):
    """The same with a λ-adapter of the same total rank, which at the run's λ is the same LoRA."""

    adapted_dimensions: tuple[str, ...] = ()

    @property
    def rank_per_dimension(self) -> int:
        return (self.lora_rank - SHARED_RANK) // len(self.adapted_dimensions)

    def _adapter_tensors(self, seed: int) -> dict:
        """The LoRA's, with the columns of B that λ scales divided by λ."""
        tensors = super()._adapter_tensors(seed)
        weights = dict(zip(self.dimensions, self.weights))
        for name in (name for name in tensors if name.endswith("lora_B.weight")):
            for k, dimension in enumerate(self.adapted_dimensions):
                start = SHARED_RANK + k * self.rank_per_dimension
                tensors[name][:, start : start + self.rank_per_dimension] /= weights[dimension]
        return tensors

    def _adapter_settings(self, model: Path) -> dict:
        return super()._adapter_settings(model) | {
            "peft_type": "LAMBDA_LORA",
            "r": SHARED_RANK,
            "rank_per_dimension": self.rank_per_dimension,
            "lora_alpha": 2 * self.rank_per_dimension,
            "dimensions": list(self.adapted_dimensions),
        }


def write_records(file: Path, records: list[Tokenized] | tuple[Tokenized, ...]) -> None:
    lines = (json.dumps(record.record, ensure_ascii=False) + "\n" for record in records)
    file.write_text("".join(lines), encoding="utf-8")
