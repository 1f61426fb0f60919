"""The data path: the paper's converter, processor and collator in Python, compared with the core's. Figure 7.

    python data_path.py RECORDS MODEL     serves the paper's data path

Written from the description of their behaviour (docs/method.md): ratings "4" -> 4.0, missing or not a number -> 1.0,
softmax at temperature 1, records without exactly four responses left out; 16 sequences per record, labels -100 on the
prompt; padding to a multiple of 8. If the description leaves a choice, the simpler and faster way is taken: no
`datasets` between the stages, and the prompt format is determined once; batches are made from padded lists, as by
`tokenizer.pad`.
"""

import json
import math
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from serving import serve
from sides import ROOT, alternate, python_side, ratio, rust_side

DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
NUM_RESPONSES = 4
IGNORE_INDEX = -100
BATCH_SIZE = 8
MODEL = ROOT / "fixtures" / "demo" / "model"


def score(completion: dict, dimension: str) -> float:
    try:
        return float(completion["annotations"][dimension]["Rating"])
    except (KeyError, TypeError, ValueError):
        return 1.0


def convert(record: dict) -> dict | None:
    """C.1: for each dimension, the responses and the softmax over their scores."""
    completions = record["completions"]
    if len(completions) != NUM_RESPONSES:
        return None
    converted = {"_prompt": [{"role": "user", "content": record["instruction"]}], "_response": [], "_pi_target": []}
    for dimension in DIMENSIONS:
        scores = [score(completion, dimension) for completion in completions]
        weights = [math.exp(value) for value in scores]
        total = sum(weights)
        converted["_response"].append([completion["response"] for completion in completions])
        converted["_pi_target"].append([weight / total for weight in weights])
    return converted


def read(records: Path) -> list[dict]:
    with records.open() as lines:
        converted = (convert(json.loads(line)) for line in lines)
        return [sample for sample in converted if sample is not None]


class Processor:
    """C.2: tokenises one sample into 16 sequences.

    It encodes 36 texts per record: in each dimension the prompt, then the prompt and the response of each of the four.
    """

    def __init__(self, model: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        render = lambda messages, **options: self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        user, assistant = {"role": "user", "content": "\0"}, {"role": "assistant", "content": "\1"}
        self.before_prompt, self.after_prompt = render([user], add_generation_prompt=True).split("\0")
        prompt = render([user], add_generation_prompt=True)
        self.after_response = render([user, assistant]).removeprefix(prompt).removeprefix("\1")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def __call__(self, sample: dict) -> dict:
        prompt = self.before_prompt + sample["_prompt"][0]["content"] + self.after_prompt
        feature = {"input_ids": [], "attention_mask": [], "labels": [], "pi_target": []}
        for responses, pi_target in zip(sample["_response"], sample["_pi_target"]):
            self.encode(prompt)
            for response in responses:
                prompt_ids, response_ids = self.encode(prompt), self.encode(response + self.after_response)
                feature["input_ids"].append(prompt_ids + response_ids)
                feature["attention_mask"].append([1] * (len(prompt_ids) + len(response_ids)))
                feature["labels"].append([IGNORE_INDEX] * len(prompt_ids) + response_ids)
            feature["pi_target"].extend(pi_target)
        return feature


def collate(features: list[dict]) -> dict[str, torch.Tensor]:
    """C.3: pads the sequences of all samples on the right and stacks their probabilities."""
    rows = {
        key: [row for feature in features for row in feature[key]] for key in ("input_ids", "attention_mask", "labels")
    }
    width = -(-max(map(len, rows["input_ids"])) // 8) * 8
    fillers = {"input_ids": 0, "attention_mask": 0, "labels": IGNORE_INDEX}
    batch = {
        key: torch.tensor([row + [fillers[key]] * (width - len(row)) for row in of_key]) for key, of_key in rows.items()
    }
    batch["pi_target"] = torch.tensor([p for feature in features for p in feature["pi_target"]], dtype=torch.float32)
    return batch


class PaperDataPath:
    def __init__(self, records: Path, model: Path):
        self.records, self.processor = records, Processor(model)
        self.features = [self.processor(sample) for sample in read(records)]

    def batches(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Makes all batches and returns the first."""
        made = [collate(features[at : at + BATCH_SIZE]) for at in range(0, len(features), BATCH_SIZE)]
        return made[0]

    def without_tokenising(self) -> dict:
        started = time.perf_counter()
        read(self.records)
        converted = time.perf_counter()
        first = self.batches(self.features)
        done = time.perf_counter()
        times = {"convert_seconds": converted - started, "collate_seconds": done - converted}
        return {"seconds": done - started, **times, "digest": digest(first)}

    def with_tokenising(self) -> dict:
        started = time.perf_counter()
        self.batches([self.processor(sample) for sample in read(self.records)])
        return {"seconds": time.perf_counter() - started}


def digest(batch: dict[str, torch.Tensor]) -> dict:
    """Numbers to compare batches by: for each tensor, the sum of its entries weighted by their position."""
    flat = {key: tensor.flatten() for key, tensor in batch.items()}
    flat["pi_target"] = flat["pi_target"].double()
    return {key: (tensor * (torch.arange(len(tensor)) % 9973 + 1)).sum().item() for key, tensor in flat.items()}


def write_records(file: Path, num_records: int) -> None:
    """Writes records with UltraFeedback's schema and lengths from the demo's sentences; some ratings are missing."""
    demo = (ROOT / "fixtures" / "demo" / "records.jsonl").read_text().splitlines()
    completions = (completion for line in demo for completion in json.loads(line)["completions"])
    sentences = [sentence for completion in completions for sentence in completion["response"].split(". ")]
    rng = random.Random(6)

    def text(num_words: int) -> str:
        words = []
        while len(words) < num_words:
            words.extend((rng.choice(sentences).rstrip(".") + ".").split())
        return " ".join(words[:num_words])

    def annotation() -> dict:
        rating = rng.choice(["1", "2", "3", "4", "5", "5", "N/A"])
        return {"Rating": rating, "Rationale": text(30)}

    with file.open("w") as out:
        for _ in range(num_records):
            completions = [
                {
                    "model": "a model",
                    "response": text(rng.randint(120, 300)),
                    "annotations": {dimension: annotation() for dimension in DIMENSIONS},
                }
                for _ in range(NUM_RESPONSES)
            ]
            record = {"source": "bench", "instruction": text(rng.randint(40, 200)), "completions": completions}
            out.write(json.dumps(record) + "\n")


def compare(scratch: Path, num_records: int, num_rounds: int) -> dict:
    file = scratch / f"records_{num_records}.jsonl"
    write_records(file, num_records)
    sides = [rust_side("ours", "data-path", file, MODEL), python_side("paper", "data_path.py", file, MODEL)]
    result = {"num_records": num_records, "file_bytes": file.stat().st_size}
    for word in ("without-tokenising", "expanded", "with-tokenising"):
        timings = alternate(sides, num_rounds, word=word)
        result[word] = {
            "seconds": {name: timing.summary() for name, timing in timings.items()},
            "ratio": ratio(timings["paper"], timings["ours"]),
        }
        for key in ("convert_seconds", "collate_seconds"):
            if word != "with-tokenising":
                median = lambda timing: statistics.median(answer[key] for answer in timing.answers)
                result[word][key] = {name: median(timing) for name, timing in timings.items()}
        if word == "expanded":
            check_digests(*(timing.answers[0]["digest"] for timing in timings.values()))
    for side in sides:
        side.close()
    file.unlink()
    return result


def check_digests(ours: dict, paper: dict) -> None:
    for key, value in paper.items():
        if not abs(ours[key] - value) <= 1e-6 * abs(value):
            raise SystemExit(f"{key} of the first expanded batch differs: {ours[key]} here, {value} in the paper's.")


if __name__ == "__main__":
    data_path = PaperDataPath(Path(sys.argv[1]), Path(sys.argv[2]))
    without = data_path.without_tokenising
    serve({"without-tokenising": without, "expanded": without, "with-tokenising": data_path.with_tokenising})
