"""Converts and tokenises rated or ranked records in LLaMA-Factory: dataset converters and a dataset processor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llamafactory.data.converter import DatasetConverter
from llamafactory.data.processor.processor_utils import DatasetProcessor, infer_seqlen

from ..errors import ConfigError
from ..records import ConvertOptions, convert
from ..tokenization import RANKS

#: Columns of the processed dataset: those of a tokenised sample and `dimensions`. `record` is added later, once all rows
#: are known.
TOKENS = ("prompt_ids", "response_ids", "response_indices", "pi_target", RANKS, "dimensions")


@dataclass
class UltraFeedbackConverter(DatasetConverter):
    """`formatting: ultrafeedback`: converts a record to LLaMA-Factory's messages and adds the target distributions.

    The prompt is read from `columns.prompt` (default: `instruction`), the rated responses from `columns.response`
    (default: `completions`). A record that cannot be used gets no responses.
    """

    options: ConvertOptions

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        record = self._record(example)
        sample = convert(record, self.options)
        prompt = sample["prompt"] if sample else ""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        for turn, message in enumerate(messages):
            if extras := set(message) - {"role", "content"}:
                raise ConfigError(
                    f"Turn {turn} of a prompt of {self.dataset_attr.dataset_name} has `{min(extras)}`, which templates of "
                    "LLaMA-Factory do not print: remove the field."
                )
        if sample and (extras := set().union(*sample.get("response_extras", []))):
            raise ConfigError(
                f"An answer of {self.dataset_attr.dataset_name} has `{min(extras)}`, which templates of LLaMA-Factory do not "
                "print: write it into the answer's text, or remove the field."
            )
        system = ""
        if messages and messages[0]["role"] == "system":
            system = messages.pop(0)["content"]
        responses = sample["responses"] if sample else []
        return {
            "_prompt": messages,
            "_response": [{"role": "assistant", "content": response} for response in responses],
            "_system": system,
            "_tools": self._tools(example, sample),
            "_pi_target": sample["pi_target"] if sample else [],
            "_ratings": sample["ratings"] if sample else [],
            "_dimensions": sample["dimensions"] if sample else [],
        }

    def _others(self, example: dict[str, Any], *read: str) -> dict[str, Any]:
        """Every column but those that are read, so that what would change the training is used, or refused by name."""
        mapped = {self.dataset_attr.system, self.dataset_attr.tools, *read}
        others = {column: value for column, value in example.items() if column not in mapped}
        if self.dataset_attr.system:
            others["system"] = example[self.dataset_attr.system]
        return others

    def _record(self, example: dict[str, Any]) -> dict[str, Any]:
        name = self.dataset_attr.dataset_name
        prompts = [column for column in (self.dataset_attr.prompt, "instruction", "prompt") if column in example]
        completions = [column for column in (self.dataset_attr.response, "completions") if column in example]
        if not prompts or not completions:
            raise ConfigError(
                f"The dataset {name} has the columns {', '.join(example)}: set `prompt` and `response` under `columns` "
                "in dataset_info.json to those of the prompt and of the rated responses."
            )
        rated = example[completions[0]]
        if "ratings" not in example and not any("annotations" in completion for completion in rated or []):
            raise ConfigError(
                f"The records of {name} have no ratings: each of their `{completions[0]}` needs `annotations` with a "
                "Rating for each dimension."
            )
        others = self._others(example, prompts[0], completions[0], "prompt", "completions")
        return {**others, "instruction": example[prompts[0]], "completions": rated}

    def _tools(self, example: dict[str, Any], sample: dict[str, Any] | None) -> str:
        """The tools as JSON, the form in which LLaMA-Factory's templates take them."""
        if self.dataset_attr.tools:
            return example[self.dataset_attr.tools] or ""
        return json.dumps(sample["tools"], ensure_ascii=False) if sample and sample.get("tools") else ""


@dataclass
class RankingsConverter(UltraFeedbackConverter):
    """`formatting: rankings`: the same for ranked responses.

    The prompt is read from `columns.prompt` (default: `prompt`), the responses from `columns.response` (default:
    `responses`), and their ranks from `rankings`.
    """

    def _record(self, example: dict[str, Any]) -> dict[str, Any]:
        prompts = [column for column in (self.dataset_attr.prompt, "prompt", "instruction") if column in example]
        responses = [column for column in (self.dataset_attr.response, "responses") if column in example]
        if not prompts or not responses or "rankings" not in example:
            raise ConfigError(
                f"The dataset {self.dataset_attr.dataset_name} has the columns {', '.join(example)}: set `prompt` and "
                "`response` under `columns` in dataset_info.json to those of the prompt and of the responses, and name the "
                "column of the ranks `rankings`."
            )
        others = self._others(example, prompts[0], responses[0], "prompt", "responses")
        return {**others, "prompt": example[prompts[0]], "responses": example[responses[0]]}


#: Converters by the `formatting` of a dataset, which is also the format of its records.
CONVERTERS = {"ultrafeedback": UltraFeedbackConverter, "rankings": RankingsConverter}


@dataclass
class ListwiseDatasetProcessor(DatasetProcessor):
    """Tokenises prompts with N responses, with the template's own encoding.

    Lengths are truncated as LLaMA-Factory truncates pairs, but from the start of the prompt, whose end holds the header
    of the assistant's turn.
    """

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        tokens: dict[str, list[Any]] = {name: [] for name in TOKENS}
        columns = ("prompt", "response", "system", "tools", "pi_target", "ratings", "dimensions")
        for prompt, responses, system, tools, pi_target, ratings, dimensions in zip(
            *(examples[f"_{name}"] for name in columns), strict=True
        ):
            if len(prompt) % 2 != 1 or len(responses) < 2:
                continue
            prompt_ids, response_ids = self._encode(prompt, responses, system, tools)
            kept = [index for index, ids in enumerate(response_ids) if ids]
            if len(kept) < 2:
                continue
            tokens["prompt_ids"].append(prompt_ids)
            tokens["response_ids"].append([response_ids[index] for index in kept])
            tokens["response_indices"].append(kept)
            targets = [_over(row, kept) for row in pi_target]
            tokens["pi_target"].append(targets)
            rated = [[row[index] for index in kept] for row in ratings]
            tokens[RANKS].append([_places(*rows) for rows in zip(targets, rated, strict=True)])
            tokens["dimensions"].append(dimensions)
        return tokens

    def _encode(
        self, prompt: list[dict[str, str]], responses: list[dict[str, str]], system: str | None, tools: str | None
    ) -> tuple[list[int], list[list[int]]]:
        pairs = [
            self.template.encode_oneturn(self.tokenizer, [*prompt, response], system, tools) for response in responses
        ]
        end = [self.tokenizer.eos_token_id] if self.template.efficient_eos else []
        prompt_ids: list[int] = pairs[0][0]
        response_ids = [ids + end for _, ids in pairs]
        longest = max(len(ids) for ids in response_ids)
        source_len, target_len = infer_seqlen(len(prompt_ids), longest, self.data_args.cutoff_len)
        return prompt_ids[len(prompt_ids) - source_len :], [ids[:target_len] for ids in response_ids]

    def print_data_example(self, example: dict[str, Any]) -> None:
        print("prompt:\n{}".format(self.tokenizer.decode(example["prompt_ids"], skip_special_tokens=False)))
        for index, ids in zip(example["response_indices"], example["response_ids"], strict=True):
            print(f"response {index}:\n{self.tokenizer.decode(ids, skip_special_tokens=False)}")
        for name, targets in zip(example["dimensions"], example["pi_target"], strict=True):
            print(f"target of {name}: {targets}")


def _over(row: list[float | None], kept: list[int]) -> list[float | None]:
    """Restricts a target distribution to the responses that are kept; masked if none of its mass is on them."""
    if len(kept) == len(row):
        return row
    targets = [row[index] for index in kept]
    mass = sum(target for target in targets if target is not None)
    return [None if target is None or mass <= 0 else target / mass for target in targets]


def _places(targets: list[float | None], ratings: list[float | None]) -> list[int]:
    """Places of the responses as in the library's batches: by rating if all that are not masked have one, else by target."""
    known = None not in [rating for rating, target in zip(ratings, targets, strict=True) if target is not None]
    rows = zip(ratings if known else targets, targets, strict=True)
    scores = [None if target is None else score for score, target in rows]
    best_first = sorted({score for score in scores if score is not None}, reverse=True)
    return [0 if score is None else 1 + best_first.index(score) for score in scores]
