"""Measures a model on MMLU, ARC-Challenge, HellaSwag, TruthfulQA, WSC273 and GSM8K by lm-eval: `make benchmarks`.

    .venvs/benchmarks/bin/python ci/benchmarks/run.py --model DIR [--adapter DIR] [--lambda name=w,…] [--data DIR]
        [--limit N] [--tasks mmlu,…] [--num-fewshot task=N,…] [--batch-size N] [--device D] [--out FILE]

Prints a table and writes the figures to `benchmarks.json`, by default in the folder of the run that is measured.
docs/lm-eval.md says what each figure is.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(
    os.environ.get(
        "LAMBDA_DPO_PROGRAM", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "lambda-dpo"
    )
)
NAMES = ("mmlu", "arc_challenge", "hellaswag", "truthfulqa_mc2", "wsc273", "gsm8k")
TRUTHFULQA_NOTE = (
    "UltraFeedback contains TruthfulQA's prompts: a model trained on it is measured fairly only with"
    ' data.exclude_sources = ["truthful_qa"].'
)


class UserError(Exception):
    """What cannot be done, and what to do instead."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the model's folder, or its name on the hub")
    parser.add_argument("--adapter", type=Path, help="a LoRA or λ-adapter of it, which is merged first")
    parser.add_argument("--lambda", dest="lambda_", metavar="name=w,…", help="λ at which a λ-adapter is measured")
    parser.add_argument("--data", type=Path, help="folder of local files; by default the hub's datasets are used")
    parser.add_argument("--limit", type=int, help="questions of each benchmark, at most")
    parser.add_argument("--tasks", default=",".join(NAMES), help="benchmarks, by default all six")
    parser.add_argument(
        "--num-fewshot", default="", help="worked examples before each question, such as arc_challenge=25"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", help="by default cuda if there is one, else cpu")
    parser.add_argument("--out", type=Path, help="by default benchmarks.json in the run's folder")
    return parser.parse_args()


def run_folder(options: argparse.Namespace) -> Path | None:
    """The `output_dir` of the run that trained the adapter or the model: it has a `run.toml`."""
    folder = Path(options.adapter or options.model).resolve().parent
    return folder if (folder / "run.toml").is_file() else None


def chosen(options: argparse.Namespace) -> tuple[list[str], dict[str, int]]:
    """Returns the names of the benchmarks to run, and the numbers of worked examples that differ from the defaults."""
    names = [name for name in options.tasks.split(",") if name]
    shots = {}
    for part in options.num_fewshot.replace(" ", ",").split(","):
        name, _, number = part.partition("=")
        if part and not number.isdigit():
            raise UserError(f"NUM_FEWSHOT has `{part}`; it is written as arc_challenge=25,hellaswag=10.")
        if part:
            shots[name] = int(number)
    for name in [*names, *shots]:
        if name not in NAMES:
            raise UserError(f"There is no benchmark `{name}`; choose from {', '.join(NAMES)}.")
    if not names:
        raise UserError(f"TASKS names no benchmark; choose from {', '.join(NAMES)}.")
    if options.limit is not None and options.limit < 2:
        raise UserError(f"LIMIT is {options.limit}; a standard error needs at least two questions.")
    return names, shots


def check_model(options: argparse.Namespace) -> None:
    """Finds what is wrong with the model before anything slow begins."""
    path = Path(options.model)
    is_name = options.model.count("/") == 1 and not options.model.startswith((".", "/", "~"))
    if not (path / "config.json").is_file() and (path.exists() or not is_name):
        raise UserError(f"{options.model} is no model folder: it has no config.json.")
    if options.adapter is None and options.lambda_ is not None:
        raise UserError("LAMBDA needs ADAPTER: a model without a λ-adapter is the same at every λ.")
    if options.adapter is not None and not PROGRAM.is_file():
        raise UserError(f"{PROGRAM} does not exist, and merging an adapter needs it: run `make build`.")


def merged(options: argparse.Namespace, folder: Path) -> str:
    """The model to load: as given, or with the adapter merged by `export` into `folder`."""
    if options.adapter is None:
        return options.model
    command = [PROGRAM, "export", "--model", options.model, "--adapter", options.adapter, "--to", "hf", folder]
    if options.lambda_ is not None:
        command[2:2] = ["--lambda", options.lambda_]
    if (status := subprocess.run(command).returncode) != 0:
        raise UserError(
            f"`lambda-dpo export` could not merge {options.adapter} into {options.model} (exit status {status})."
        )
    return str(folder)


def spread(counts: list[int], limit: int) -> list[int]:
    """Shares `limit` questions among parts of `counts` questions as equally as possible, evenly along their order."""
    shares = [0] * len(counts)
    limit = min(limit, sum(counts))
    while limit > 0:
        open_parts = [part for part, count in enumerate(counts) if shares[part] < count]
        if limit < len(open_parts):
            open_parts = [open_parts[turn * len(open_parts) // limit] for turn in range(limit)]
        for part in open_parts:
            shares[part] += 1
        limit -= len(open_parts)
    return shares


def mean_and_stderr(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, float("nan")
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def measure(options: argparse.Namespace, names: list[str], shots: dict[str, int], work: Path) -> dict:
    """Runs lm-eval; returns the report."""
    # These take seconds to import, and read where to keep converted datasets.
    import datasets
    import lm_eval
    import torch
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager
    from tasks import BENCHMARKS, DataError, write_tasks

    datasets.disable_progress_bars()
    folder = work / "tasks"
    folder.mkdir()
    try:
        parts = {
            name: write_tasks(folder, BENCHMARKS[name], shots.get(name, BENCHMARKS[name].num_fewshot), options.data)
            for name in names
        }
    except DataError as error:
        raise UserError(str(error)) from error
    model = merged(options, work / "merged")
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(
        [task for name in names for task in parts[name]]
    )
    samples = {}
    for name in names:
        counts = [len(loaded["tasks"][task].eval_docs) for task in parts[name]]
        shares = counts if options.limit is None else spread(counts, options.limit)
        samples |= {task: list(range(share)) for task, share in zip(parts[name], shares, strict=True) if share > 0}
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = {"pretrained": model, "dtype": "float32" if device == "cpu" else "auto"}
    try:
        policy = get_model("hf").create_from_arg_obj(settings, {"batch_size": options.batch_size, "device": device})
    except (OSError, ValueError) as error:
        raise UserError(f"Transformers cannot load {options.model}: {str(error).splitlines()[0]}") from error
    tasks = [loaded["tasks"][task] for task in samples]
    results = lm_eval.simple_evaluate(model=policy, tasks=tasks, samples=samples, bootstrap_iters=0)
    report = {"lm_eval": version("lm-eval"), "limit": options.limit}
    report |= {"model": options.model, "adapter": options.adapter and str(options.adapter), "lambda": options.lambda_}
    report |= {"data": "hub" if options.data is None else "local", "tasks": {}}
    for name in names:
        benchmark = BENCHMARKS[name]
        answers = [answer for task in parts[name] for answer in results["samples"].get(task, [])]
        values = [float(answer[benchmark.metric]) for answer in answers if answer["filter"] == benchmark.filter]
        value, stderr = mean_and_stderr(values)
        report["tasks"][name] = {
            "metric": benchmark.metric,
            "value": value,
            "stderr": stderr,
            "num_questions": len(values),
            "num_fewshot": shots.get(name, benchmark.num_fewshot),
        }
    return report


def notes(options: argparse.Namespace, report: dict) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if report["limit"] is not None:
        found.append(
            f"Of each benchmark at most {report['limit']} questions; the first of the set, MMLU's of each subject."
        )
    if "gsm8k" in report["tasks"] and options.data and not (options.data / "gsm8k_train.jsonl").exists():
        found.append("GSM8K's worked examples are the last five of the test set, which are not scored.")
    if "truthfulqa_mc2" in report["tasks"]:
        folder = run_folder(options)
        config = tomllib.loads((folder / "run.toml").read_text()) if folder else {}
        if "truthful_qa" not in config.get("data", {}).get("exclude_sources", []):
            found.append(TRUTHFULQA_NOTE)
    return found


def table(report: dict) -> str:
    lines = ["| benchmark | metric | worked examples | questions | value |", "|---|---|---|---|---|"]
    for name, task in report["tasks"].items():
        value = f"{task['value']:.3f} ± {task['stderr']:.3f}"
        lines.append(f"| {name} | {task['metric']} | {task['num_fewshot']} | {task['num_questions']} | {value} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def main() -> None:
    options = arguments()
    try:
        names, shots = chosen(options)
        if options.data is not None and not options.data.is_dir():
            raise UserError(f"DATA={options.data} is no folder; leave it out to use the hub's datasets.")
        check_model(options)
        folder = run_folder(options)
        if options.out is None and folder is None:
            raise UserError(
                f"Give OUT=FILE: {options.adapter or options.model} lies in no folder of a run, where benchmarks.json"
                " would go."
            )
        out = options.out or folder / "benchmarks.json"
        if not out.resolve().parent.is_dir():
            raise UserError(f"There is no folder {out.resolve().parent} for OUT={out}; make it first.")
        with tempfile.TemporaryDirectory(prefix="lambda-dpo-benchmarks-") as work:
            # Converted datasets are as temporary as the task files; what is local needs no network.
            if options.data is not None:
                os.environ["HF_DATASETS_CACHE"] = work
                os.environ["HF_DATASETS_OFFLINE"] = "1"
                if Path(options.model).is_dir():
                    os.environ["HF_HUB_OFFLINE"] = "1"
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            report = measure(options, names, shots, Path(work))
        report["notes"] = notes(options, report)
        write(out, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(report))
    for note in report["notes"]:
        print(note)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
