"""`make paper`: its files are read, it makes nothing twice, and its sentences follow from the figures."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "ci" / "paper"))

import findings  # noqa: E402
import steps  # noqa: E402
import study  # noqa: E402
from results import AXES, Row, Table, difference  # noqa: E402

# What `evaluation.json` holds of results; the rest is settings, paths and costs.
MEASURED = ("records", "kl", "spearman", "scores", "win_rate")
ISLAND = ROOT / "docs" / "paper" / "island.toml"
EXAMPLE = ROOT / "docs" / "paper" / "real-model.toml"

# Stands for the program: notes each call, writes what the real one leaves behind, fails at the call that $FAIL names.
PROGRAM = """#!{python}
import json, os, pathlib, sys, tomllib
command, arguments = sys.argv[1], sys.argv[2:]
is_train = command == "train"
out = tomllib.load(open(arguments[0], "rb"))["output_dir"] if is_train else arguments[arguments.index("--out") + 1]
out = pathlib.Path(out)
with open({calls!r}, "a") as calls:
    calls.write(f"{{command}} {{out.relative_to({base!r})}}\\n")
if os.environ.get("FAIL") == f"{{command}} {{out.relative_to({base!r})}}":
    sys.exit("error: the disk is full")
if command == "schedule":
    out.write_text('[lambda]\\nschedule = "table"\\ntable = [{{ probability = 1.0, weights = {{ a = 1.0 }} }}]\\n')
    sys.exit()
out.mkdir(parents=True, exist_ok=command == "report")
if command == "train":
    (out / "trainer_state.json").write_text("{{}}")
if command == "evaluate":
    is_better = "ours" in str(out)
    estimate = lambda mean: {{"mean": mean, "stderr": 0.1}}
    # A line separator of Unicode, which ends no line of JSON.
    (out / "answers.jsonl").write_text('{{"response": "four"}}\\n{{"response": "seven\u2028."}}\\n')
    json.dump({{
        "subject": {{"reference": "none" if "start" in str(out) else "adapter_off"}},
        "settings": {{"dimensions": ["a", "b"], "num_records": 4, "num_prompts": 3}},
        "records": {{"rewards/accuracies": 0.5 + is_better / 4, "expected_rating/a": 3.0, "expected_rating/b": 3.0}},
        "kl": {{"k1": estimate(2 + is_better - ("dpo" in str(out))), "k3": estimate(2), "tokens": estimate(0.1)}},
        "spearman": {{name: {{"policy": estimate(-0.5), "reference": None}} for name in ("sum", "mean")}},
        "scores": {{name: {{"policy": estimate(3 + is_better), "against": None}} for name in ("a", "b")}},
        "win_rate": None if "start" in str(out) else {{"rate": 0.5 + is_better / 4, "length_controlled": None}},
        "run": {{"steps": 8, "seconds": 1.0, "tokens_per_second": 10.0, "peak_memory_bytes": 2**20}},
    }}, open(out / "evaluation.json", "w"))
"""

STUDY = """title = "A study"
about = "About it."
out = "{out}"
page = "{out}/page.md"
seeds = [1, 2]
threads = 1
jobs = 1
stages.sft.config = {{ stage = "sft", model = {{ path = "{model}" }}, data = {{ records = ["{records}"] }} }}
pipelines.one = {{ title = "One", about = "The only one.", start = "sft" }}
config = {{ stage = "lambda_dpo", data = {{ records = ["{records}"], dimensions = ["a", "b"] }} }}
evaluate = {{ records = ["{records}"], rater = "cat", num_prompts = 3 }}
fit = {{ variants = ["a_only", "uniform"], records = ["{records}"] }}

[variants]
dpo = {{ title = "DPO", kind = "baseline", config = {{ stage = "dpo" }} }}
a_only = {{ title = "only a", kind = "unimodal", dimension = "a", config.lambda = {{ schedule = "unimodal" }} }}
uniform = {{ title = "uniform", kind = "lambda" }}
ours = {{ title = "table", kind = "lambda", is_fitted = true }}
adapter = {{ title = "λ-adapter", kind = "adapter", lambdas = ["a"] }}
"""


@pytest.fixture
def made(tmp_path):
    """A study of a few runs with a program that only notes its calls; gives a function that makes it."""
    out, calls, program = tmp_path / "out", tmp_path / "calls", tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable, calls=str(calls), base=str(out)))
    program.chmod(0o755)
    (tmp_path / "records.jsonl").write_text("{}\n")
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(out=out, model=tmp_path / "model", records=tmp_path / "records.jsonl"))

    def make(**environment):
        calls.write_text("")
        environment = os.environ | {"LAMBDA_DPO_PROGRAM": str(program)} | environment
        command = [sys.executable, ROOT / "ci" / "paper" / "run.py", file]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done, calls.read_text().splitlines()

    return make


def test_every_run_is_made_and_measured_once(made, tmp_path):
    done, calls = made()
    assert done.returncode == 0, done.stderr
    runs = [f"one/{name}-{seed}" for name in ("dpo", "a_only", "uniform", "ours", "adapter") for seed in (1, 2)]
    expected = ["train stages/sft", *(f"evaluate one/start/evaluation-{seed}" for seed in (1, 2))]
    expected += [f"train {run}" for run in runs] + [f"evaluate {run}/evaluation" for run in runs]
    expected += [f"evaluate one/adapter-{seed}/evaluation-a" for seed in (1, 2)]
    expected += [f"evaluate one/{name}-1/evaluation-for-table" for name in ("a_only", "uniform")]
    expected += ["schedule one/table.toml", "report report"]
    assert sorted(calls) == sorted(expected)
    assert "14 of 14: one/ours, seed 2" in done.stdout
    # The fitted table is the λ of the runs that ask for it.
    config = tomllib.loads((tmp_path / "out" / "configs" / "one-ours-1.toml").read_text())
    assert config["lambda"] == {"schedule": "table", "table": [{"probability": 1.0, "weights": {"a": 1.0}}]}
    scores = [json.loads(line) for line in (tmp_path / "out" / "one" / "table-scores.jsonl").read_text().splitlines()]
    assert [score["lambda"] for score in scores] == [{"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.5}]


def test_a_study_that_was_stopped_goes_on_and_repeats_nothing(made):
    done, first = made(FAIL="train one/uniform-1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full (exit status 1; all that it said is in ")
    done, second = made()
    assert done.returncode == 0, done.stderr
    assert set(first) & set(second) == {"train one/uniform-1"}
    done, third = made()
    assert (done.returncode, third) == (0, ["report report"])


def test_a_second_run_gives_the_same_figures(tmp_path):
    """The island's study, cut to two variants, few steps and few prompts, made twice by the real program."""

    def figures(name):
        out = tmp_path / name
        cut = tomllib.loads(ISLAND.read_text())
        cut |= {"out": str(out), "page": str(out / "page.md"), "seeds": [1, 2], "prepare": []}
        cut["stages"] = {"sft": {"config": cut["stages"]["sft"]["config"]}}
        cut["stages"]["sft"]["config"]["model"] = {"path": "fixtures/demo/model", "init": "random"}
        cut["stages"]["sft"]["config"]["train"] |= {"max_steps": 30}
        cut["pipelines"] = {"finetuned_base": cut["pipelines"]["finetuned_base"]}
        cut["config"]["train"] |= {"max_steps": 4}
        cut["variants"] = {name: cut["variants"][name] for name in ("dpo", "random")}
        cut["evaluate"] |= {"num_prompts": 6, "max_new_tokens": 12}
        del cut["fit"]
        file = tmp_path / f"{name}.toml"
        file.write_text(study.to_toml(cut))
        command = [sys.executable, ROOT / "ci" / "paper" / "run.py", file]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = {}
        for path in sorted(out.glob("finetuned_base/**/evaluation*/evaluation.json")):
            measured = json.loads(path.read_text())
            found[str(path.relative_to(out))] = {key: measured[key] for key in MEASURED}
            found[str(path.relative_to(out))]["answers"] = (path.parent / "answers.jsonl").read_text()
        return found

    first = figures("first")
    assert len(first) == 6
    assert first == figures("second")


def test_results_of_other_settings_are_refused(made, tmp_path):
    assert made()[0].returncode == 0
    file = tmp_path / "study.toml"
    file.write_text(file.read_text().replace("num_prompts = 3", "num_prompts = 2"))
    done, calls = made()
    assert done.returncode == 1
    assert "was made with other settings (compare " in done.stderr
    assert calls == []


def test_records_that_are_not_there_are_named(made, tmp_path):
    (tmp_path / "records.jsonl").unlink()
    done, calls = made()
    missing = tmp_path / "records.jsonl"
    expected = f"error: {missing} cannot be read (No such file or directory): a study needs its records as files.\n"
    assert (done.returncode, done.stderr, calls) == (1, expected, [])


def test_the_page_says_what_the_figures_say(made, tmp_path):
    assert made()[0].returncode == 0
    page = (tmp_path / "out" / "page.md").read_text()
    assert "from the results of 10 runs: 1 pipelines × 5 variants × 2 seeds" in page.replace("\n", " ")
    assert "| table | 0.750 ± 0.000 |" in page
    assert "| the start of One |  | 3.00 ± 0.00 |  | " in page, "the start has neither a win rate nor a reward accuracy"
    assert "clearly better than DPO: table (+0.250, standard error 0.000)" in page.replace("\n  ", " ")
    assert "λ-DPO does not win by divergence from the start (k1): DPO has 1.0, clearly better" in page.replace(
        "\n  ", " "
    )
    assert (
        "The highest win rate is that of table (0.750), clearly ahead of the best baseline, DPO (0.500)"
        in page.replace("\n  ", " ")
    )
    assert max(map(len, page.splitlines())) <= 120 or all(
        line.startswith("|") for line in page.splitlines() if len(line) > 120
    )


@pytest.mark.parametrize("path", [ISLAND, EXAMPLE])
def test_the_studies_are_whole(monkeypatch, tmp_path, path):
    for name in ("MODEL", "RECORDS", "SFT"):
        monkeypatch.setenv(name, str(tmp_path / name))
    found = study.load(path)
    assert [pipeline.title for pipeline in found.pipelines] == ["Base", "Finetuned-Base"]
    dimensions = found.config["data"]["dimensions"]
    assert len(found.seeds) == 3
    names = {"dpo", "simpo", "orpo", *dimensions, "uniform", "random", "gaussian", "table", "adapter"}
    assert names <= {variant.name for variant in found.variants}
    assert [variant.dimension for variant in found.variants if variant.kind == "unimodal"] == dimensions
    for variant in found.variants:
        config = study.absolute_paths(found.run_config(found.pipelines[0], variant, 3, None))
        assert tomllib.loads(study.to_toml(config)) == config
        assert (config["seed"], config["output_dir"]) == (3, str(found.run(found.pipelines[0], variant, 3)))


def test_what_the_study_of_a_real_model_needs_is_said(monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    with pytest.raises(study.StudyError, match=r"docs/paper/real-model.toml needs MODEL: run `make paper MODEL=…`\.$"):
        study.load(EXAMPLE)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "seeds = [1, 2]",
            "seeds = [1]",
            "`seeds` must be two or more different numbers, or there is no spread to report.",
        ),
        ('variants = ["a_only"', 'variants = ["b_only"', "fit.variants names `b_only`, which is no variant."),
        ('kind = "adapter"', 'sort = "adapter"', "got an unexpected keyword argument 'sort'."),
        ('\nout = "', '\nin = "', "the table or key 'out' is missing."),
    ],
)
def test_mistakes_in_a_study_are_named(tmp_path, before, after, message):
    file = tmp_path / "study.toml"
    text = STUDY.format(out="o", model="m", records="r")
    assert before in text
    file.write_text(text.replace(before, after, 1))
    with pytest.raises(study.StudyError) as error:
        study.load(file)
    assert str(error.value) == f"{file}: {message}"


def row(name, kind, *values):
    """A row with win rates, one for each seed."""
    return Row(name, name, kind, tuple({"win_rate": {"rate": value}} for value in values))


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ((0.80, 0.81, 0.82), "clearly better than DPO: ours (+0.300, standard error 0.008)"),
        ((0.20, 0.21, 0.22), "clearly worse: ours (-0.300, standard error 0.008)"),
        ((0.50, 0.52, 0.54), "not clearly different: ours (+0.010, standard error 0.013)"),
    ],
)
def test_a_difference_is_clear_beyond_two_standard_errors(ours, said):
    dpo = Row("dpo", "DPO", "baseline", row("dpo", "baseline", 0.50, 0.51, 0.52).evaluations)
    table = Table(None, dpo, (dpo, row("ours", "lambda", *ours)), {})
    assert findings.against_dpo(table) == [f"By win rate, {said}."]
    [gap] = [difference(table.rows[1], dpo, axis) for axis in AXES if axis.key == "win_rate"]
    # s / √n of each side, with s = 0.01 and n = 3 for DPO.
    spread = (ours[1] - ours[0]) / 3**0.5
    assert gap.stderr == pytest.approx((spread**2 + 0.01**2 / 3) ** 0.5)


def test_a_failed_command_is_named_with_its_log(tmp_path):
    found = study.load(ISLAND)
    with pytest.raises(study.StudyError) as error:
        steps.call(found, tmp_path / "log", ["bash", "-c", "echo 'error: no such thing' >&2; exit 3"])
    assert str(error.value) == f"no such thing (exit status 3; all that it said is in {tmp_path / 'log'})"


def test_island_texts_pair_each_answer_with_another_prompt(tmp_path):
    source = ROOT / "fixtures" / "demo" / "sft.jsonl"
    subprocess.run(
        [sys.executable, ROOT / "ci" / "paper" / "island_texts.py", source, tmp_path / "texts.jsonl"], check=True
    )
    before, after = (
        [json.loads(line)["messages"] for line in path.read_text().splitlines()]
        for path in (source, tmp_path / "texts.jsonl")
    )
    assert sorted(messages[-1]["content"] for messages in before) == sorted(
        messages[-1]["content"] for messages in after
    )
    assert [messages[0] for messages in before] == [messages[0] for messages in after]
    assert sum(old[-1] == new[-1] for old, new in zip(before, after, strict=True)) < len(before) / 50
