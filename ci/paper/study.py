"""A study: which runs to make, how to measure them, and where everything goes, from one TOML file.

The file's tables (docs/paper/island.toml is an example):

    title, about, out, page, seeds, threads, jobs
    prepare                 commands that write what the runs read, once
    [config]                run config of every preference training
    [stages.NAME]           a training before it: `from` (a stage), or `config.model.path`; `config`, a run config
    [pipelines.NAME]        `title`, `about`, `start`: a stage, or a model folder
    [variants.NAME]         `title`, `kind`, `config` (what differs from [config]), and as needed the
                            fields of `Variant` below
    [evaluate]              flags of `lambda-dpo evaluate`
    [fit]                   the λ table of variants with `is_fitted`: `variants`, `records`, flags of `schedule fit`
    [benchmarks]            optional: `data`, `limit`, `tasks`, `seeds` of `make benchmarks`

Paths are relative to the checkout. `${NAME}` in a string is replaced by the environment's NAME,
`${NAME_DIR}` by the folder of that file.
"""

import copy
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class StudyError(Exception):
    """What is wrong with the study, and what to do."""


@dataclass(frozen=True)
class Variant:
    """One way of preference training."""

    name: str
    title: str
    kind: str
    config: dict
    reduction: str = "sum"
    """Reduction of its rewards, with which they are measured."""
    dimension: str | None = None
    """The only dimension that it is trained for."""
    lambdas: tuple[str, ...] = ()
    """Dimensions at whose corner of the simplex a λ-adapter is measured, besides uniform λ."""
    is_fitted: bool = False
    """Whether its λ come from a table that is fitted to the scores of other variants."""


@dataclass(frozen=True)
class Pipeline:
    """What comes before the preference training."""

    name: str
    title: str
    about: str
    start: str


@dataclass(frozen=True)
class Study:
    """The whole study."""

    title: str
    about: str
    out: Path
    page: Path
    seeds: tuple[int, ...]
    threads: int
    jobs: int
    prepare: tuple[str, ...]
    config: dict
    stages: dict[str, dict]
    pipelines: tuple[Pipeline, ...]
    variants: tuple[Variant, ...]
    evaluate: dict
    fit: dict | None
    benchmarks: dict | None
    command: str = field(default="make paper")

    def start(self, pipeline: Pipeline) -> Path:
        """The model folder from which the pipeline's preference trainings start."""
        return (
            self.out / "stages" / pipeline.start / "model"
            if pipeline.start in self.stages
            else resolved(pipeline.start)
        )

    def run(self, pipeline: Pipeline, variant: Variant, seed: int) -> Path:
        """The `output_dir` of a run."""
        return self.out / pipeline.name / f"{variant.name}-{seed}"

    def start_evaluation(self, pipeline: Pipeline, seed: int) -> Path:
        """The evaluation of the pipeline's start, whose answers the runs' are compared with."""
        return self.out / pipeline.name / "start" / f"evaluation-{seed}"

    def run_config(self, pipeline: Pipeline, variant: Variant, seed: int, fitted: dict | None) -> dict:
        """The whole config of a run; `fitted` is the [lambda] section of a fitted table."""
        config = merge(self.config, variant.config)
        config = merge(config, {"output_dir": str(self.run(pipeline, variant, seed)), "seed": seed})
        config = merge(config, {"model": {"path": str(self.start(pipeline))}})
        return config if fitted is None else config | {"lambda": fitted}


def load(path: Path) -> Study:
    """Reads a study."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: {error}.") from error
    tables = fill_in(tables, path)
    try:
        tables["pipelines"] = tuple(Pipeline(name, **table) for name, table in tables["pipelines"].items())
        variants = (
            {"config": {}} | table | {"lambdas": tuple(table.get("lambdas", ()))}
            for table in tables["variants"].values()
        )
        tables["variants"] = tuple(
            Variant(name, **table) for name, table in zip(tables["variants"], variants, strict=True)
        )
        tables |= {key: tuple(tables.get(key, ())) for key in ("seeds", "prepare")}
        tables |= {"out": resolved(tables["out"]), "page": resolved(tables["page"])}
        study = Study(**{"stages": {}, "fit": None, "benchmarks": None} | tables)
    except KeyError as error:
        raise StudyError(f"{path}: the table or key {error} is missing.") from error
    except TypeError as error:
        raise StudyError(f"{path}: {str(error).split('__init__() ')[-1]}.") from error
    check(study, path)
    return study


def check(study: Study, path: Path) -> None:
    if len(study.seeds) < 2 or len(set(study.seeds)) < len(study.seeds):
        raise StudyError(f"{path}: `seeds` must be two or more different numbers, or there is no spread to report.")
    for name, stage in study.stages.items():
        if "from" in stage and stage["from"] not in study.stages:
            raise StudyError(f"{path}: stages.{name}.from is `{stage['from']}`, which is no stage.")
    names = {variant.name for variant in study.variants}
    if any(variant.is_fitted for variant in study.variants) and study.fit is None:
        raise StudyError(f"{path}: a variant has `is_fitted`, but there is no [fit].")
    if study.fit is not None and (unknown := set(study.fit["variants"]) - names):
        raise StudyError(f"{path}: fit.variants names `{min(unknown)}`, which is no variant.")


def merge(base: dict, over: dict) -> dict:
    """Returns `base` with the keys of `over`, table by table; a [lambda] section is replaced as a whole."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "lambda"
        merged[key] = merge(merged[key], value) if nested else copy.deepcopy(value)
    return merged


def fill_in(value: object, path: Path) -> object:
    """Replaces `${NAME}` in every string by the environment's NAME."""
    if isinstance(value, dict):
        return {key: fill_in(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_in(item, path) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda found: from_environment(found[1], path), value)
    return value


def from_environment(name: str, path: Path) -> str:
    if name.endswith("_DIR"):
        return os.path.dirname(os.path.abspath(from_environment(name.removesuffix("_DIR"), path)))
    if not os.environ.get(name):
        raise StudyError(f"{path} needs {name}: run `make paper {name}=…`.")
    return os.environ[name]


def resolved(path: str) -> Path:
    """A path of the study, relative to the checkout."""
    return Path(os.path.abspath(ROOT / Path(path).expanduser()))


def absolute_paths(config: dict) -> dict:
    """Returns a run config whose paths do not depend on where its file lies."""
    config = copy.deepcopy(config)
    data, model = config.get("data", {}), config.get("model", {})
    for key in ("records", "eval_records"):
        if key in data:
            data[key] = [str(resolved(path)) for path in data[key]]
    if "path" in model and (ROOT / Path(model["path"]).expanduser()).exists():
        model["path"] = str(resolved(model["path"]))
    return config


def to_toml(config: dict) -> str:
    """Writes a run config: one table per section."""
    scalars = [f"{key} = {inline(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for section, table in config.items():
        if isinstance(table, dict):
            scalars += ["", f"[{section}]", *(f"{key} = {inline(value)}" for key, value in table.items())]
    return "\n".join(scalars) + "\n"


def inline(value: object) -> str:
    """A TOML value on one line; JSON's strings, numbers and booleans are TOML's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
