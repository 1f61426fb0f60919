"""The steps of a study, each of which is skipped if its result is there: train, evaluate, fit, benchmarks."""

import hashlib
import json
import os
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

from study import ROOT, Pipeline, Study, StudyError, Variant, absolute_paths, merge, resolved, to_toml

PROGRAM = Path(
    os.environ.get(
        "LAMBDA_DPO_PROGRAM", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "lambda-dpo"
    )
)
BENCHMARKS_PYTHON = ROOT / ".venvs" / "benchmarks" / "bin" / "python"


RUNNING: set[subprocess.Popen] = set()


def stop() -> None:
    """Asks all commands that are running to end; a training writes a checkpoint first."""
    for child in list(RUNNING):
        child.terminate()


def call(study: Study, log: Path, command: Sequence[object]) -> None:
    """Runs a command with the study's number of threads; what it says goes to a log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(study.threads), "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w", encoding="utf-8") as file:
        file.write(shlex.join(map(str, command)) + "\n\n")
        file.flush()
        child = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=file, stderr=file)
        RUNNING.add(child)
        status = child.wait()
        RUNNING.discard(child)
    if status != 0:
        said = log.read_text(encoding="utf-8").strip().splitlines()[-1]
        raise StudyError(f"{said.removeprefix('error: ')} (exit status {status}; all that it said is in {log})")


def made_as_planned(marker: Path, plan: object) -> None:
    """Checks that what a folder holds was made with these settings, or notes them if it is new.

    A result from other settings would be mistaken for one of this study.
    """
    text = json.dumps(plan, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        partial = marker.with_name(marker.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.rename(marker)
    elif marker.read_text(encoding="utf-8") != text:
        raise StudyError(
            f"{marker.parent} was made with other settings (compare {marker}): remove the folder to make it anew, or"
            " give the study another `out`."
        )


def content(paths: Sequence[str]) -> str:
    """A hash of files, so that a study of changed records does not go on with results of the old ones."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(resolved(path).read_bytes())
        except OSError as error:
            raise StudyError(
                f"{resolved(path)} cannot be read ({error.strerror}): a study needs its records as files."
            ) from error
    return digest.hexdigest()


def train(study: Study, config: dict, what: str) -> None:
    """Trains a run, or goes on with it, unless it is finished."""
    config = merge(absolute_paths(config), {"train": {"resume": "auto"}})
    folder = Path(config["output_dir"])
    is_finished = (folder / "trainer_state.json").exists()
    made_as_planned(
        study.out / "plans" / f"{what}.json", {"config": config, "records": content(config["data"]["records"])}
    )
    config_file = study.out / "configs" / f"{what}.toml"
    config_file.parent.mkdir(parents=True, exist_ok=True)
    config_file.write_text(to_toml(config), encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not is_finished:
        call(study, study.out / "logs" / f"{what}.train.log", [PROGRAM, "train", config_file])


def flags(settings: dict) -> list[str]:
    """Command-line flags from a table: `num_prompts = 200` is `--num-prompts 200`."""
    found = []
    for key, value in settings.items():
        found += ["--" + key.replace("_", "-"), *(value if isinstance(value, list) else [str(value)])]
    return found


def evaluate(study: Study, out: Path, what: str, settings: dict, policy: Sequence[object]) -> None:
    """Measures a policy, unless it has been."""
    settings = merge(study.evaluate, settings)
    settings["records"] = [str(resolved(path)) for path in settings["records"]]
    command = [*policy, *flags(settings)]
    plan = {"command": list(map(str, command)), "records": content(settings["records"])}
    made_as_planned(study.out / "plans" / f"{what}.json", plan)
    if not (out / "evaluation.json").exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        call(study, study.out / "logs" / f"{what}.log", [PROGRAM, "evaluate", *command, "--out", out])


def evaluate_start(study: Study, pipeline: Pipeline, seed: int) -> None:
    """Measures the model that the preference trainings start from, whose answers theirs are compared with."""
    out = study.start_evaluation(pipeline, seed)
    policy = ["--model", study.start(pipeline), "--reference", "none"]
    evaluate(study, out, f"{pipeline.name}-start-evaluation-{seed}", {"seed": seed}, policy)


def policy_of(study: Study, pipeline: Pipeline, variant: Variant, seed: int) -> list[object]:
    return ["--model", study.start(pipeline), "--adapter", study.run(pipeline, variant, seed) / "adapter"]


def train_and_evaluate(study: Study, pipeline: Pipeline, variant: Variant, seed: int) -> None:
    """Makes one run of the study: trains it and measures it on every axis."""
    run, name = study.run(pipeline, variant, seed), f"{pipeline.name}-{variant.name}-{seed}"
    fitted = None
    if variant.is_fitted:
        fitted = tomllib.loads(table_file(study, pipeline).read_text(encoding="utf-8"))["lambda"]
    train(study, study.run_config(pipeline, variant, seed, fitted), name)
    settings = {"reduction": variant.reduction, "seed": seed, "against": str(study.start_evaluation(pipeline, seed))}
    settings["run"] = str(run)
    policy = policy_of(study, pipeline, variant, seed)
    evaluate(study, run / "evaluation", f"{name}-evaluation", settings, policy)
    for dimension in variant.lambdas:
        corner = [*policy, "--lambda", f"{dimension}=1"]
        evaluate(study, run / f"evaluation-{dimension}", f"{name}-evaluation-{dimension}", settings, corner)


def table_file(study: Study, pipeline: Pipeline) -> Path:
    return study.out / pipeline.name / "table.toml"


def fit_table(study: Study, pipeline: Pipeline) -> None:
    """Fits a λ table to the mean scores of answers by the first seed's runs of fixed λ, on records of their own."""
    seed, lines = study.seeds[0], []
    dimensions = study.config["data"]["dimensions"]
    for variant in (variant for variant in study.variants if variant.name in study.fit["variants"]):
        weights = {variant.dimension: 1.0} if variant.dimension else {name: 1 / len(dimensions) for name in dimensions}
        out = study.run(pipeline, variant, seed) / "evaluation-for-table"
        settings = {"records": study.fit["records"], "seed": seed}
        evaluate(
            study,
            out,
            f"{pipeline.name}-{variant.name}-{seed}-for-table",
            settings,
            policy_of(study, pipeline, variant, seed),
        )
        scores = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["scores"]
        mean = sum(scores[name]["policy"]["mean"] for name in dimensions) / len(dimensions)
        lines.append(
            json.dumps({"lambda": {name: weights.get(name, 0.0) for name in dimensions}, "score": mean}) + "\n"
        )
    scores_file, out = study.out / pipeline.name / "table-scores.jsonl", table_file(study, pipeline)
    options = {key: value for key, value in study.fit.items() if key not in ("variants", "records")}
    made_as_planned(study.out / "plans" / f"{pipeline.name}-table.json", {"scores": lines, "options": options})
    if not out.exists():
        scores_file.write_text("".join(lines), encoding="utf-8")
        command = [PROGRAM, "schedule", "fit", "--scores", scores_file, *flags(options), "--out", out]
        call(study, study.out / "logs" / f"{pipeline.name}-table.log", command)


def benchmark(study: Study, pipeline: Pipeline, variant: Variant, seed: int) -> None:
    """Runs the six benchmarks on a run's model, unless they have been."""
    run = study.run(pipeline, variant, seed)
    if not (run / "benchmarks.json").exists():
        command = [BENCHMARKS_PYTHON, ROOT / "ci" / "benchmarks" / "run.py", *policy_of(study, pipeline, variant, seed)]
        options = {key: value for key, value in study.benchmarks.items() if key != "seeds"}
        name = f"{pipeline.name}-{variant.name}-{seed}-benchmarks"
        call(study, study.out / "logs" / f"{name}.log", [*command, *flags(options)])
