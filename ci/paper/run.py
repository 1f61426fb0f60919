"""Makes a study, run by run, and writes its report: `make paper`.

    .venv/bin/python ci/paper/run.py STUDY.toml

What is finished is not made again; what was interrupted goes on from its last checkpoint.
"""

import os
import subprocess
from pathlib import Path

import page
import phases
import steps
from phases import Step
from study import ROOT, Pipeline, Study, StudyError, load


def plan(study: Study) -> list[list[Step]]:
    """The steps of the study; those of a phase need all phases before it, and not each other."""
    found: list[list[Step]] = [
        [(command, lambda command=command: prepare(study, command))] for command in study.prepare
    ]
    for name, stage in study.stages.items():
        found.append([(f"stage {name}", lambda name=name, stage=stage: train_stage(study, name, stage))])
    seeds, pipelines = study.seeds, study.pipelines
    found.append(
        [
            (
                f"{pipeline.name}/start, seed {seed}",
                lambda pipeline=pipeline, seed=seed: steps.evaluate_start(study, pipeline, seed),
            )
            for pipeline in pipelines
            for seed in seeds
        ]
    )
    found.append(runs(study, is_fitted=False))
    if study.fit is not None and any(variant.is_fitted for variant in study.variants):
        found.append(
            [
                (f"{pipeline.name}/table", lambda pipeline=pipeline: steps.fit_table(study, pipeline))
                for pipeline in pipelines
            ]
        )
        found.append(runs(study, is_fitted=True))
    if study.benchmarks is not None:
        found.append(benchmarks(study, pipelines))
    return [phase for phase in found if phase]


def runs(study: Study, is_fitted: bool) -> list[Step]:
    return [
        (
            f"{pipeline.name}/{variant.name}, seed {seed}",
            lambda pipeline=pipeline, variant=variant, seed=seed: steps.train_and_evaluate(
                study, pipeline, variant, seed
            ),
        )
        for pipeline in study.pipelines
        for variant in study.variants
        for seed in study.seeds
        if variant.is_fitted == is_fitted
    ]


def benchmarks(study: Study, pipelines: tuple[Pipeline, ...]) -> list[Step]:
    return [
        (
            f"{pipeline.name}/{variant.name}, seed {seed}, benchmarks",
            lambda pipeline=pipeline, variant=variant, seed=seed: steps.benchmark(study, pipeline, variant, seed),
        )
        for pipeline in pipelines
        for variant in study.variants
        for seed in study.benchmarks["seeds"]
    ]


def prepare(study: Study, command: str) -> None:
    steps.call(study, study.out / "logs" / "prepare.log", ["bash", "-c", command])


def train_stage(study: Study, name: str, stage: dict) -> None:
    config = stage["config"] | {"output_dir": str(study.out / "stages" / name)}
    if "from" in stage:
        config["model"] = config.get("model", {}) | {"path": str(study.out / "stages" / stage["from"] / "model")}
    steps.train(study, config, f"stage-{name}")


def report(study: Study) -> None:
    """Writes the program's report of all runs beside them."""
    rows = []
    for pipeline in study.pipelines:
        rows += [f"{pipeline.title}: the start={study.start_evaluation(pipeline, seed)}" for seed in study.seeds]
        for variant in study.variants:
            runs = [study.run(pipeline, variant, seed) for seed in study.seeds]
            rows += [f"{pipeline.title}: {variant.title}={run}" for run in runs]
            for dimension in variant.lambdas:
                rows += [
                    f"{pipeline.title}: λ-adapter at {dimension}={run / f'evaluation-{dimension}'}" for run in runs
                ]
    out = study.out / "report"
    command = [steps.PROGRAM, "report", *rows, "--out", out]
    if subprocess.run(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL).returncode != 0:
        raise StudyError("`lambda-dpo report` could not report on the runs: see above.")
    print(f"report of all runs: {os.path.relpath(out / 'report.html', ROOT)}")


def written(study: Study, source: Path) -> str:
    """Writes the report, and returns the page in Markdown."""
    report(study)
    return page.page(study, source)


if __name__ == "__main__":
    phases.main("docs/paper/island.toml", load, plan, written)
