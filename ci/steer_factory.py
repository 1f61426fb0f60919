"""Trains λ-adapters in LLaMA-Factory and in the program on the same records, and measures what λ controls.

    .venv/bin/python ci/steer_factory.py DATA OUT [--model DIR] [--learning-rates 1e-3 2e-3 …]

Two sets of records, both with a model of stories that has seen nothing like them (DATA/stories260k, or MODEL):

texts     answers of known models to real instructions (DATA/flask_responses.jsonl), rated by the rules of
          ci/paper/text/rate.py: positivity, simplicity, brevity. 240 records are trained on; the learning rate is the one
          with the largest mean range on 40 others; 80 more are reported.
dialogue  40 contexts with six answers, rated by people in five dimensions (DATA/topical_chat.jsonl), in five folds: each
          record is measured by adapters that were not trained on it. Nothing is chosen on them: the settings are those
          of `texts`.

The figures are expected ratings, Σ P(i) · rating over a record's answers under the policy's listwise distribution, over
the λ of the dimension, the others sharing the rest. *Targets* is the range of a policy whose distribution is its target,
Σ λ_k p_k: what a perfect training reaches. Prints both tables as Markdown, and fails if an expected rating of `texts`
does not rise throughout.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("LAMBDA_DPO_PROGRAM", ROOT / "target" / "release" / "lambda-dpo"))
FACTORY = ROOT / ".venvs" / "factory" / "bin" / "lambda-dpo-factory"
RATERS = ROOT / ".venvs" / "raters" / "bin" / "python"

RANK, RANK_PER_DIMENSION, BETA, ALPHA, BATCH_SIZE, CUTOFF = 4, 8, 0.5, 0.1, 8, 512
NUM_FOLDS = 5

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Data:
    """Records of one kind: their dimensions, and what a rating is divided by before its softmax."""

    name: str
    dimensions: tuple[str, ...]
    temperature: float
    epochs: int


TEXTS = Data("texts", ("brevity", "positivity", "simplicity"), 1.0, 4)
# At temperature 1 ratings between 0 and 1 hardly move a target: see the column of targets in the README.
DIALOGUE = Data(
    "dialogue", ("coherence", "engagingness", "groundedness", "naturalness", "understandability"), 0.25, 24
)


def run(command: Sequence[object], log: Path, **environment: str) -> None:
    """Runs a command whose output goes into a file; ends the script with the file's end if it fails."""
    with log.open("w") as file:
        done = subprocess.run(
            list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment, check=False
        )
    if done.returncode != 0:
        sys.exit(f"error: {command[0]} failed, {log} ends with:\n{log.read_text()[-2000:]}")


def train_in_factory(data: Data, model: Path, records: Path, learning_rate: float, out: Path) -> Path:
    """Trains in LLaMA-Factory; returns the adapter's folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    info = {"records": {"file_name": str(records), "formatting": "ultrafeedback", "columns": {"prompt": "instruction"}}}
    (out / "dataset_info.json").write_text(json.dumps(info))
    config = {
        "model_name_or_path": str(model),
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": RANK,
        "lora_target": "all",
        "lambda_adapter": True,
        "lambda_rank_per_dimension": RANK_PER_DIMENSION,
        "pref_loss": "lambda_dpo",
        "pref_beta": BETA,
        "lambda_alpha": ALPHA,
        "lambda_rating_temperature": data.temperature,
        "lambda_precompute_ref_log_probs": True,
        "dataset": "records",
        "dataset_dir": str(out),
        "cutoff_len": CUTOFF,
        "output_dir": str(out / "adapter"),
        "learning_rate": learning_rate,
        "num_train_epochs": data.epochs,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": BATCH_SIZE,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
    }
    (out / "train.yaml").write_text(json.dumps(config, indent=1))  # JSON is YAML, too.
    run([FACTORY, "train", out / "train.yaml"], out / "train.log", LAMBDA_DPO_CACHE=str(out / "cache"))
    return out / "adapter"


def train_in_program(data: Data, model: Path, records: Path, learning_rate: float, out: Path) -> Path:
    """Trains in the program, with the same settings; returns the adapter's folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config = f"""stage = "lambda_dpo"
output_dir = "run"
[model]
path = {json.dumps(str(model))}
device = "cpu"
[adapter]
kind = "lambda_lora"
rank = {RANK}
rank_per_dimension = {RANK_PER_DIMENSION}
[data]
records = [{json.dumps(str(records))}]
cutoff_len = {CUTOFF}
temperature = {data.temperature}
[lambda]
schedule = "dirichlet"
alpha = {ALPHA}
[loss]
beta = {BETA}
[train]
learning_rate = {learning_rate}
num_train_epochs = {data.epochs}
per_device_train_batch_size = {BATCH_SIZE}
lr_scheduler_type = "cosine"
warmup_ratio = 0.1
save_steps = 0
"""
    (out / "train.toml").write_text(config)
    run([PROGRAM, "train", out / "train.toml"], out / "train.log", LAMBDA_DPO_CACHE=str(out / "cache"))
    return out / "run" / "adapter"


def measured(data: Data, model: Path, adapter: Path, records: Path, out: Path) -> Curves:
    """Expected rating in each dimension at each λ of its own, by `lambda-dpo steer`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [PROGRAM, "steer", "--model", model, "--adapter", adapter, "--records", records, "--out", out]
    run([*command, "--beta", BETA], out.with_suffix(".log"))
    report = json.loads((out / "steer.json").read_text())
    curves = dict(zip(report["dimensions"], report["curves"], strict=True))
    return {
        name: [report["points"][point]["held_out"][f"expected_rating/{name}"] for point in curves[name]]
        for name in data.dimensions
    }


def perfect(data: Data, records: Path, num_points: int) -> Curves:
    """The same figures for a policy whose listwise distribution is the target."""
    found: Curves = {name: [] for name in data.dimensions}
    rows = [json.loads(line)["completions"] for line in records.read_text().removesuffix("\n").split("\n")]
    rows = [
        {name: [float(answer["annotations"][name]["Rating"]) for answer in answers] for name in data.dimensions}
        for answers in rows
    ]
    for name in data.dimensions:
        for step in range(num_points):
            own = step / (num_points - 1)
            weights = {other: (1 - own) / (len(data.dimensions) - 1) for other in data.dimensions} | {name: own}
            found[name].append(mean(_expected(row, weights, name, data.temperature) for row in rows))
    return found


def _expected(row: dict[str, list[float]], weights: dict[str, float], name: str, temperature: float) -> float:
    total = 0.0
    for other, weight in weights.items():
        powers = [math.exp(rating / temperature) for rating in row[other]]
        total += weight * sum(p * rating for p, rating in zip(powers, row[name], strict=True)) / sum(powers)
    return total


def mean_curves(several: Sequence[Curves]) -> Curves:
    """The mean of figures from parts of equal size."""
    return {name: [mean(values) for values in zip(*(curves[name] for curves in several))] for name in several[0]}


def rises(values: Sequence[float]) -> bool:
    """Whether every value is above the one before."""
    return all(before < after for before, after in zip(values, values[1:]))


def reach(values: Sequence[float]) -> float:
    """The value at λ = 1 minus that at 0."""
    return values[-1] - values[0]


def table(data: Data, ours: Curves, program: Curves, targets: Curves) -> str:
    """The figures as Markdown."""
    header = "| expected rating, λ of the dimension | 0 | ¼ | ½ | ¾ | 1 | range | the program's | targets' |"
    rows = [header, "|" + "---|" * (header.count("|") - 1)]
    for name in data.dimensions:
        cells = [f"{value:.3f}" for value in ours[name]]
        cells += [f"{reach(curves[name]):+.3f}" for curves in (ours, program, targets)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def texts(data_folder: Path, out: Path, model: Path, rates: Sequence[float]) -> tuple[float, bool]:
    """Trains on rated texts and prints their table; returns the learning rate chosen, and whether all ratings rise."""
    folder = out / "texts"
    maker = [RATERS, ROOT / "ci" / "paper" / "text" / "records.py", data_folder / "flask_responses.jsonl", folder]
    sizes = ["--num-train", 240, "--num-eval", 80, "--num-rest", 40, "--num-sft", 0]
    sizes += ["--max-prompt-chars", 400, "--max-response-chars", 600]
    out.mkdir(parents=True, exist_ok=True)
    run([*maker, *sizes], out / "records.log")
    ranges = {}
    for rate in rates:
        adapter = train_in_factory(TEXTS, model, folder / "records.jsonl", rate, folder / f"factory-{rate}")
        chosen_on = measured(TEXTS, model, adapter, folder / "rest.jsonl", folder / f"rest-{rate}")
        ranges[rate] = mean(reach(values) for values in chosen_on.values())
        print(f"learning rate {rate}: mean range {ranges[rate]:.3f} on the records for choosing", flush=True)
    rate = max(ranges, key=lambda rate: ranges[rate])
    held_out = folder / "eval.jsonl"
    ours = measured(TEXTS, model, folder / f"factory-{rate}" / "adapter", held_out, folder / "factory-report")
    adapter = train_in_program(TEXTS, model, folder / "records.jsonl", rate, folder / "program")
    program = measured(TEXTS, model, adapter, held_out, folder / "program-report")
    targets = perfect(TEXTS, held_out, len(ours[TEXTS.dimensions[0]]))
    print(f"\nTexts, at learning rate {rate}:\n\n{table(TEXTS, ours, program, targets)}\n", flush=True)
    return rate, all(rises(values) for values in ours.values())


def dialogue(data_folder: Path, out: Path, model: Path, rate: float) -> None:
    """Trains on rated dialogues, fold by fold, and prints their table."""
    folder = out / "dialogue"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (data_folder / "topical_chat.jsonl").read_text().removesuffix("\n").split("\n")
    ours, program, targets = [], [], []
    for fold in range(NUM_FOLDS):
        held_out, train = folder / f"eval-{fold}.jsonl", folder / f"train-{fold}.jsonl"
        held_out.write_text("".join(f"{line}\n" for line in lines[fold::NUM_FOLDS]))
        train.write_text("".join(f"{line}\n" for index, line in enumerate(lines) if index % NUM_FOLDS != fold))
        adapter = train_in_factory(DIALOGUE, model, train, rate, folder / f"factory-{fold}")
        ours.append(measured(DIALOGUE, model, adapter, held_out, folder / f"factory-report-{fold}"))
        adapter = train_in_program(DIALOGUE, model, train, rate, folder / f"program-{fold}")
        program.append(measured(DIALOGUE, model, adapter, held_out, folder / f"program-report-{fold}"))
        targets.append(perfect(DIALOGUE, held_out, len(ours[0][DIALOGUE.dimensions[0]])))
    means = [mean_curves(curves) for curves in (ours, program, targets)]
    print(f"Dialogue, at learning rate {rate}:\n\n{table(DIALOGUE, *means)}")
    flat = Data(DIALOGUE.name, DIALOGUE.dimensions, 1.0, 0)
    parts = [perfect(flat, folder / f"eval-{fold}.jsonl", 5) for fold in range(NUM_FOLDS)]
    at_one = {name: f"{reach(values):+.3f}" for name, values in mean_curves(parts).items()}
    print("\nThe targets' ranges at temperature 1: " + ", ".join(f"{name} {gain}" for name, gain in at_one.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--only", choices=["texts"])
    args = parser.parse_args()
    data, out = args.data.resolve(), args.out.resolve()
    model = (args.model or data / "stories260k").resolve()
    rate, is_rising = texts(data, out, model, args.learning_rates)
    if args.only is None:
        dialogue(data, out, model, rate)
    if not is_rising:
        print("error: an expected rating of texts does not rise throughout.", file=sys.stderr)
    return 0 if is_rising else 1


if __name__ == "__main__":
    sys.exit(main())
