"""The six benchmarks as lm-eval tasks: its own, on the hub's datasets or on local files."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import documents
import lm_eval.tasks
import yaml
from documents import DataError, Splits

LM_EVAL = Path(lm_eval.tasks.__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, and which of the figures that lm-eval gives is reported."""

    name: str
    config: str
    metric: str
    num_fewshot: int
    file: str
    read: Callable[[Path], Splits] | Callable[[Path], dict[str, Splits]]
    filter: str = "none"


# MMLU has the five worked examples of its authors; the others are as lm-eval's tasks define them.
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("mmlu", "mmlu/default/mmlu_{subject}.yaml", "acc", 5, "mmlu.zip", documents.mmlu),
        Benchmark(
            "arc_challenge", "arc/arc_challenge.yaml", "acc_norm", 0, "arc_challenge.jsonl", documents.arc_challenge
        ),
        Benchmark(
            "hellaswag", "hellaswag/hellaswag.yaml", "acc_norm", 0, "hellaswag_val_full.txt.bz2", documents.hellaswag
        ),
        Benchmark(
            "truthfulqa_mc2",
            "truthfulqa/truthfulqa_mc2.yaml",
            "acc",
            0,
            "truthfulqa_mc_task.json",
            documents.truthfulqa_mc2,
        ),
        Benchmark("wsc273", "wsc273/default.yaml", "acc", 0, "winograd_wsc.jsonl", documents.wsc273),
        Benchmark(
            "gsm8k",
            "gsm8k/gsm8k.yaml",
            "exact_match",
            documents.NUM_GSM8K_SHOTS,
            "gsm8k_test.jsonl",
            documents.gsm8k,
            filter="strict-match",
        ),
    )
}


def mmlu_subjects() -> list[str]:
    """The subjects for which lm-eval has a task."""
    return sorted(path.stem.removeprefix("mmlu_") for path in (LM_EVAL / "mmlu" / "default").glob("mmlu_*.yaml"))


def write_task(folder: Path, name: str, config: str, num_fewshot: int, splits: Splits | None) -> str:
    """Writes `name.yaml`, which includes lm-eval's own task; documents in `splits` take the place of the hub's."""
    settings = {"include": str(LM_EVAL / config), "task": name, "num_fewshot": num_fewshot}
    if splits is not None:
        files = {}
        for split, questions in splits.items():
            files[split] = str(folder / f"{name}-{split}.jsonl")
            lines = (json.dumps(question, ensure_ascii=False) + "\n" for question in questions)
            Path(files[split]).write_text("".join(lines), encoding="utf-8")
        settings |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        settings |= {f"{kind}_split": None for kind in ("training", "validation", "test", "fewshot")}
        settings["test_split"] = "test" if "test" in splits else "validation"
        examples = next((split for split in ("dev", "train") if split in splits), None)
        if num_fewshot > 0 and examples is None:
            raise DataError(
                f"{name} has no worked examples in the local files, but {num_fewshot} are asked for: leave out DATA, or"
                " ask for none."
            )
        settings["fewshot_split"] = examples
        if examples is not None and len(splits[examples]) < num_fewshot:
            raise DataError(f"{name} has {len(splits[examples])} worked examples, but {num_fewshot} are asked for.")
        if examples is not None and len(splits[examples]) == num_fewshot:
            settings["fewshot_config"] = {"sampler": "first_n"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return name


def write_tasks(folder: Path, benchmark: Benchmark, num_fewshot: int, data: Path | None) -> list[str]:
    """Writes the tasks of a benchmark into `folder`; returns their names. `data` is the folder of local files."""
    found = None
    if data is not None:
        path = data / benchmark.file
        if not path.is_file():
            raise DataError(
                f"There is no file {path}, which {benchmark.name} needs: put it there (docs/lm-eval.md), leave the task"
                " out with TASKS, or leave out DATA to use the hub's dataset."
            )
        try:
            found = benchmark.read(path)
        except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error}); get the file again.") from error
    if benchmark.name != "mmlu":
        return [write_task(folder, benchmark.name, benchmark.config, num_fewshot, found)]
    subjects = mmlu_subjects()
    if found is not None and (unknown := found.keys() - set(subjects)):
        raise DataError(
            f"{data / benchmark.file}: lm-eval knows no subject {min(unknown)}; it has {', '.join(subjects)}."
        )
    return [
        write_task(
            folder,
            f"mmlu_{subject}",
            benchmark.config.format(subject=subject),
            num_fewshot,
            None if found is None else found[subject],
        )
        for subject in (subjects if found is None else sorted(found))
    ]
