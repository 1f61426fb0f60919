"""The figures of a study: one list of values, by seed, for each variant and axis."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import json_lines
from study import Pipeline, Study


@dataclass(frozen=True)
class Axis:
    """One figure of an evaluation."""

    key: str
    title: str
    digits: int
    read: Callable[[dict], float | None]
    best: str | None = None
    """Which values are better: high or low; None if neither is."""


def path(*keys: str) -> Callable[[dict], float | None]:
    """Reads a nested key; None if a part of the way is absent or null."""

    def read(evaluation: dict) -> float | None:
        value = evaluation
        for key in keys:
            value = None if value is None else value.get(key)
        return value

    return read


def mean_score(evaluation: dict) -> float | None:
    """Mean score of the answers over the dimensions that the judge rates."""
    names = [name for name in evaluation["settings"]["dimensions"] if name in evaluation["scores"]]
    return mean(evaluation["scores"][name]["policy"]["mean"] for name in names) if names else None


AXES = (
    Axis("win_rate", "win rate", 3, path("win_rate", "rate"), "high"),
    Axis("length_controlled", "at equal length", 3, path("win_rate", "length_controlled"), "high"),
    Axis("score", "score", 2, mean_score, "high"),
    Axis("accuracy", "reward accuracy", 3, path("records", "rewards/accuracies"), "high"),
    Axis("k1", "KL, k1", 1, path("kl", "k1", "mean"), "low"),
    Axis("kl_tokens", "KL, token", 3, path("kl", "tokens", "mean"), "low"),
    Axis("spearman_sum", "ρ, sum", 2, path("spearman", "sum", "policy", "mean")),
    Axis("spearman_mean", "ρ, mean", 2, path("spearman", "mean", "policy", "mean")),
    Axis("length", "length", 0, path("mean_length")),
)
COSTS = (
    Axis("seconds", "seconds", 1, path("run", "seconds")),
    Axis("tokens_per_second", "tokens/s", 0, path("run", "tokens_per_second")),
    Axis("memory", "peak memory, MiB", 0, lambda evaluation: path("run", "peak_memory_bytes")(evaluation) / 2**20),
)


def score_axis(dimension: str) -> Axis:
    """Mean score of the answers in one dimension."""
    return Axis(dimension, dimension, 2, path("scores", dimension, "policy", "mean"), "high")


def rating_axis(dimension: str) -> Axis:
    """Expected rating of the records' responses in one dimension."""
    return Axis(dimension, dimension, 2, path("records", f"expected_rating/{dimension}"), "high")


@dataclass(frozen=True)
class Row:
    """A policy, measured with every seed."""

    name: str
    title: str
    kind: str
    evaluations: tuple[dict, ...]

    def values(self, axis: Axis) -> list[float] | None:
        """Its figures by seed; None if it has none on this axis."""
        found = [axis.read(evaluation) for evaluation in self.evaluations]
        return None if any(value is None for value in found) else found

    def cell(self, axis: Axis) -> str:
        """Mean ± standard deviation over seeds."""
        values = self.values(axis)
        if values is None:
            return ""
        return f"{mean(values):.{axis.digits}f} ± {stdev(values):.{axis.digits}f}"


@dataclass(frozen=True)
class Difference:
    """How far one row is from another on an axis: mean over seeds, and its standard error."""

    mean: float
    stderr: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than two standard errors: with three seeds, a rough rule."""
        return abs(self.mean) > 2 * self.stderr


def difference(row: Row, other: Row, axis: Axis) -> Difference | None:
    """Compares two rows; None if one has no figure on this axis."""
    ours, theirs = row.values(axis), other.values(axis)
    if ours is None or theirs is None:
        return None
    stderr = math.sqrt(stdev(ours) ** 2 / len(ours) + stdev(theirs) ** 2 / len(theirs))
    return Difference(mean(ours) - mean(theirs), stderr)


@dataclass(frozen=True)
class Table:
    """A pipeline's rows: its start, the variants, and a λ-adapter's corners by dimension."""

    pipeline: Pipeline
    start: Row
    rows: tuple[Row, ...]
    corners: dict[str, Row]

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def of_kind(self, *kinds: str) -> list[Row]:
        return [row for row in self.rows if row.kind in kinds]


def read(study: Study) -> list[Table]:
    """Reads all evaluations of a finished study."""
    return [table(study, pipeline) for pipeline in study.pipelines]


def evaluation(folder: Path) -> dict:
    """Reads an evaluation, with the mean length of its answers in characters."""
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    answers = [row["response"] for row in json_lines.read(folder / "answers.jsonl")]
    # Without a reference, rewards are log-probs: not what accuracy means elsewhere.
    if found["subject"]["reference"] == "none":
        del found["records"]["rewards/accuracies"]
    return found | {"mean_length": mean(map(len, answers))}


def table(study: Study, pipeline: Pipeline) -> Table:
    def row(name: str, title: str, kind: str, folder: Callable[[int], Path]) -> Row:
        return Row(name, title, kind, tuple(evaluation(folder(seed)) for seed in study.seeds))

    rows, corners = [], {}
    for variant in study.variants:
        run = lambda seed, variant=variant: study.run(pipeline, variant, seed)  # noqa: E731
        rows.append(row(variant.name, variant.title, variant.kind, lambda seed, run=run: run(seed) / "evaluation"))
        for dimension in variant.lambdas:
            folder = lambda seed, run=run, dimension=dimension: run(seed) / f"evaluation-{dimension}"  # noqa: E731
            corners[dimension] = row(variant.name, f"λ-adapter at {dimension} = 1", "corner", folder)
    start = row("start", f"the start of {pipeline.title}", "start", lambda seed: study.start_evaluation(pipeline, seed))
    return Table(pipeline, start, tuple(rows), corners)
