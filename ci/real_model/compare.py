"""λ on a real chat model, beside specialists, their soup and unconditioned training: `make steer-real MODEL=DIR`.

    .venv/bin/python ci/real_model/compare.py STUDY.toml

Records of real answers, rated by ci/paper/text/rate.py, are split by prompt: policies are trained on `records`, settings
chosen on `rest`, and everything that is reported is measured on `eval`. What is finished is not made again; what was
interrupted goes on from its last checkpoint. STUDY.toml (docs/real-model.toml) has these tables:

    title, about, out, page, threads, jobs, dimensions
    responses               file of the answers
    [records]               flags of ci/paper/text/records.py
    [config]                run config of every training
    [candidates.NAME]       what differs in a λ-adapter's config; the one with the widest control on `rest` is reported
    [policies]              `lambda_adapter`, `specialist`, `unconditioned`: what differs in their configs
    [steer]                 flags of `lambda-dpo steer`
    [answers]               flags of `lambda-dpo generate`, and `num_prompts`
    shown                   prompts, of which the answers to the first are shown
    chats                   conversations for the perplexity
    [benchmarks]            optional: flags of `make benchmarks`
"""

import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "ci" / "paper"), str(ROOT / "ci")]

import json_lines  # noqa: E402
import phases  # noqa: E402
import steps  # noqa: E402
from phases import Step  # noqa: E402
from study import StudyError, fill_in, merge, resolved  # noqa: E402

from report import NUM_SHOWN, control, draw, page  # noqa: E402

RATERS = ROOT / ".venvs" / "raters" / "bin" / "python"
TEXT = ROOT / "ci" / "paper" / "text"


@dataclass(frozen=True)
class Comparison:
    """The whole study; fields as in its file."""

    title: str
    about: str
    model: Path
    out: Path
    page: Path
    threads: int
    jobs: int
    dimensions: tuple[str, ...]
    responses: Path
    records: dict
    config: dict
    candidates: dict[str, dict]
    policies: dict[str, dict]
    steer: dict
    answers: dict
    shown: Path
    chats: Path
    benchmarks: dict | None = None

    def data(self, name: str) -> Path:
        """A file of the records."""
        return self.out / "data" / name

    def adapter(self, policy: str) -> Path:
        """The adapter of a training."""
        return self.out / policy / "adapter"

    @property
    def rater(self) -> str:
        return f"{RATERS} {TEXT / 'rate.py'} {self.data('scale.json')}"

    def chosen(self) -> str:
        """The candidate with the widest control on the prompts for choosing."""
        return max(self.candidates, key=lambda name: control(self.report(f"choose-{name}")))

    def report(self, name: str) -> dict:
        """A report of `steer`."""
        return json.loads((self.out / "reports" / name / "steer.json").read_text(encoding="utf-8"))


def load(path: Path) -> Comparison:
    """Reads the study's file."""
    try:
        tables = fill_in(tomllib.loads(path.read_text(encoding="utf-8")), path)
        paths = {key: resolved(tables[key]) for key in ("model", "out", "page", "responses", "shown", "chats")}
        return Comparison(**tables | paths | {"dimensions": tuple(tables["dimensions"])})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: {error}.") from error
    except KeyError as error:
        raise StudyError(f"{path}: the key {error} is missing.") from error
    except TypeError as error:
        raise StudyError(f"{path}: {str(error).split('__init__() ')[-1]}.") from error


def plan(study: Comparison) -> list[list[Step]]:
    """The steps; those of a phase need all phases before it, and not each other."""
    corners = {name: f"{name}=1" for name in study.dimensions}
    policies = {"base": None, "uniform": ""} | corners
    found: list[list[Step]] = [[("records", lambda: make_records(study))]]
    found.append(
        [
            (f"λ-adapter, {name}", lambda name=name, change=change: train(
                    study, f"candidate-{name}", merge(study.policies["lambda_adapter"], change)
                ),
            )
            for name, change in study.candidates.items()
        ]
    )
    found.append([(f"λ-adapter, {name}, on rest", lambda name=name: choose(study, name)) for name in study.candidates])
    # In each phase, what takes longest goes first, so that the rest runs beside it.
    found.append(
        [
            ("unconditioned", lambda: train_other(study, "unconditioned", "unconditioned")),
            *(
                (f"specialist, {name}", lambda name=name: train_other(study, name, "specialist"))
                for name in study.dimensions
            ),
        ]
    )
    found.append(
        [
            ("λ-adapter, steered", lambda: steer(study, "lambda-adapter", at_lambda(study, ""), "eval")),
            ("soup, steered", lambda: steer(study, "soup", soup(study), "eval")),
            ("unconditioned, steered", lambda: steer(study, "unconditioned", ours(study, "unconditioned"), "eval")),
            *((f"answers, {name}", lambda name=name, at=at: answer(study, name, at)) for name, at in policies.items()),
            *((f"perplexity, {name}", lambda name=name, at=at: score(study, name, at)) for name, at in policies.items()),
        ]
    )
    if study.benchmarks is not None:
        found[-1] += [(f"benchmarks, {name}", lambda name=name: benchmark(study, name)) for name in ("base", "uniform")]
    found.append([("pictures", lambda: draw(study))])
    return found


def make_records(study: Comparison) -> None:
    flags = [*steps.flags(study.records), "--dimensions", ",".join(study.dimensions)]
    command = [RATERS, TEXT / "records.py", study.responses, study.out / "data", *flags]
    steps.made_as_planned(study.out / "plans" / "records.json", list(map(str, command)))
    if not study.data("scale.json").exists():
        steps.call(study, study.out / "logs" / "records.log", command)
    held_out = json_lines.read(study.data("eval.jsonl"))[: study.answers["num_prompts"]]
    prompts = [row["prompt"] for row in json_lines.read(study.shown)[:NUM_SHOWN]]
    prompts += [row["instruction"] for row in held_out]
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts]
    study.data("prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def train(study: Comparison, name: str, change: dict) -> None:
    """Trains an adapter of the study's config with a change."""
    data = {"records": [str(study.data("records.jsonl"))], "dimensions": list(study.dimensions)}
    config = merge(study.config, {"output_dir": str(study.out / name), "model": {"path": str(study.model)}, "data": data})
    steps.train(study, merge(config, change), name)


def train_other(study: Comparison, name: str, kind: str) -> None:
    """Trains what the λ-adapter is compared with, with the learning rate and β that were chosen for it."""
    chosen = {key: study.candidates[study.chosen()].get(key, {}) for key in ("train", "loss")}
    change = merge(chosen, study.policies[kind])
    if kind == "specialist":
        change = merge(change, {"lambda": {"schedule": "unimodal", "dimension": name}})
    train(study, name, change)


def soup(study: Comparison) -> list[object]:
    """The specialists, and their mixture at the ends of each λ: no more of it is shown."""
    return ["--soup", *(f"{name}={study.adapter(name)}" for name in study.dimensions), "--steps", 1]


def ours(study: Comparison, policy: str) -> list[object]:
    return ["--adapter", study.adapter(policy)]


def steer(study: Comparison, name: str, policy: Sequence[object], records: str) -> None:
    """Measures what λ controls."""
    out = study.out / "reports" / name
    config = merge(study.config, study.candidates[study.chosen()] if records == "eval" else {})
    beta = config.get("loss", {}).get("beta", 0.1)
    command = ["--model", study.model, *policy, "--records", study.data(f"{records}.jsonl"), "--rater", study.rater]
    command += ["--beta", beta, *steps.flags(study.steer)]
    steps.made_as_planned(study.out / "plans" / f"steer-{name}.json", list(map(str, command)))
    if not (out / "steer.json").exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        steps.call(study, study.out / "logs" / f"steer-{name}.log", [steps.PROGRAM, "steer", *command, "--out", out])


def choose(study: Comparison, name: str) -> None:
    steer(study, f"choose-{name}", ours(study, f"candidate-{name}"), "rest")


def at_lambda(study: Comparison, at: str | None) -> list[object]:
    """Flags of the λ-adapter at a λ; of the base model for None."""
    if at is None:
        return []
    return ours(study, f"candidate-{study.chosen()}") + (["--lambda", at] if at else [])


def answer(study: Comparison, name: str, at: str | None) -> None:
    """Answers to the prompts that are shown and to the first held-out ones, long enough to end."""
    out = study.out / "answers" / f"{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    prompts = study.data("prompts.jsonl")
    flags = steps.flags({key: value for key, value in study.answers.items() if key != "num_prompts"})
    command = ["--model", study.model, *at_lambda(study, at), "--prompts", prompts, *flags]
    plan = [*map(str, command), steps.content([str(prompts)])]
    steps.made_as_planned(study.out / "plans" / f"answers-{name}.json", plan)
    if not out.exists():
        steps.call(study, study.out / "logs" / f"answers-{name}.log", [steps.PROGRAM, "generate", *command, "--out", out])


def score(study: Comparison, name: str, at: str | None) -> None:
    """Log-probs of the conversations."""
    out = study.out / "perplexity" / f"{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = ["--model", study.model, *at_lambda(study, at), "--records", study.chats, "--format", "chat"]
    steps.made_as_planned(
        study.out / "plans" / f"perplexity-{name}.json", [*map(str, command), steps.content([str(study.chats)])]
    )
    if not out.exists():
        log = study.out / "logs" / f"perplexity-{name}.log"
        steps.call(study, log, [steps.PROGRAM, "score", *command, "--out", out])


def benchmark(study: Comparison, name: str) -> None:
    out = study.out / "benchmarks" / f"{name}.json"
    policy = at_lambda(study, None if name == "base" else "")
    if policy:
        policy += ["--lambda", ",".join(f"{dimension}={1 / len(study.dimensions)}" for dimension in study.dimensions)]
    command = ["--model", study.model, *policy, *steps.flags(study.benchmarks)]
    steps.made_as_planned(study.out / "plans" / f"benchmarks-{name}.json", list(map(str, command)))
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        program = [steps.BENCHMARKS_PYTHON, ROOT / "ci" / "benchmarks" / "run.py"]
        steps.call(study, study.out / "logs" / f"benchmarks-{name}.log", [*program, *command, "--out", out])


if __name__ == "__main__":
    phases.main("docs/real-model.toml", load, plan, page)
