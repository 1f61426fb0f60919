"""`make benchmarks` on the demo's model gives the figures of lm-eval, run by hand."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest
import run
from conftest import ROOT
from lm_eval.tasks import TaskManager

BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
MODEL = ROOT / "fixtures" / "demo" / "sft-model"


def benchmarks(*arguments, **environment):
    """Runs the script; returns its exit status, what it printed, and its last message."""
    command = [sys.executable, ROOT / "ci" / "benchmarks" / "run.py", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def by_hand(data, tmp_path_factory):
    """lm-eval's own figures for ARC's questions, from a task written out here."""
    folder = tmp_path_factory.mktemp("by-hand")
    (folder / "arc.yaml").write_text(f"""task: arc
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data / "arc_challenge.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc_norm}}]
""")
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def measure(model):
        settings = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
        results = lm_eval.simple_evaluate("hf", settings, ["arc"], task_manager=manager, bootstrap_iters=2)
        return results["results"]["arc"]["acc_norm,none"], results["results"]["arc"]["acc_norm_stderr,none"]

    return measure


def test_the_figures_are_those_of_lm_eval(data, tmp_path, by_hand):
    out = tmp_path / "benchmarks.json"
    status, printed, errors = benchmarks("--model", MODEL, "--data", data, "--limit", "20", "--out", out)
    assert status == 0, errors
    report = json.loads(out.read_text())
    assert (report["lm_eval"], report["limit"], report["data"]) == ("0.4.13", 20, "local")
    found = {
        name: (task["metric"], task["num_questions"], task["num_fewshot"]) for name, task in report["tasks"].items()
    }
    assert found == {
        "mmlu": ("acc", 20, 5),
        "arc_challenge": ("acc_norm", 8, 0),
        "hellaswag": ("acc_norm", 8, 0),
        "truthfulqa_mc2": ("acc", 8, 0),
        "wsc273": ("acc", 8, 0),
        "gsm8k": ("exact_match", 3, 5),
    }
    for name, task in report["tasks"].items():
        assert 0 <= task["value"] <= 1, name
        assert (
            f"| {name} | {task['metric']} | {task['num_fewshot']} | {task['num_questions']} | {task['value']:.3f} ±"
            in printed
        )
    value, stderr = by_hand(MODEL)
    assert math.isclose(report["tasks"]["arc_challenge"]["value"], value, abs_tol=1e-12)
    assert math.isclose(report["tasks"]["arc_challenge"]["stderr"], stderr, abs_tol=1e-12)
    assert run.TRUTHFULQA_NOTE in printed


def test_an_adapter_is_merged_at_its_lambda_and_the_figures_join_its_run(data, tmp_path, by_hand):
    subprocess.run(
        [BUILT / "examples" / "write_adapter", MODEL, tmp_path], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    (tmp_path / "run.toml").write_text('[data]\nexclude_sources = ["truthful_qa"]\n')
    adapter = tmp_path / "lambda_adapter"
    options = ("--model", MODEL, "--adapter", adapter, "--lambda", "a=0.6", "--data", data)
    status, printed, errors = benchmarks(*options, "--tasks", "arc_challenge,truthfulqa_mc2")
    assert status == 0, errors
    report = json.loads((tmp_path / "benchmarks.json").read_text())
    merged = tmp_path / "at-lambda"
    command = [run.PROGRAM, "export", "--model", MODEL, "--adapter", adapter, "--lambda", "a=0.6", "--to", "hf", merged]
    subprocess.run(command, check=True)
    assert math.isclose(report["tasks"]["arc_challenge"]["value"], by_hand(merged)[0], abs_tol=1e-12)
    assert run.TRUTHFULQA_NOTE not in printed, "the run left TruthfulQA's prompts out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere/at/all"], "nowhere/at/all is no model folder: it has no config.json."),
        (
            ["--model", MODEL, "--lambda", "a=1"],
            "LAMBDA needs ADAPTER: a model without a λ-adapter is the same at every λ.",
        ),
        (["--model", MODEL, "--tasks", "mmul"], "There is no benchmark `mmul`; choose from mmlu, arc_challenge,"),
        (
            ["--model", MODEL, "--num-fewshot", "mmlu"],
            "NUM_FEWSHOT has `mmlu`; it is written as arc_challenge=25,hellaswag=10.",
        ),
        (["--model", MODEL, "--limit", "1"], "LIMIT is 1; a standard error needs at least two questions."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(data, tmp_path, arguments, message):
    status, printed, errors = benchmarks("--data", data, "--out", tmp_path / "out.json", *arguments)
    assert (status, printed) == (1, "")
    assert f"error: {message}" in errors
    assert not (tmp_path / "out.json").exists()


def test_a_missing_file_is_named(tmp_path):
    options = ("--model", MODEL, "--data", tmp_path, "--tasks", "wsc273", "--out", tmp_path / "out.json")
    status, _, errors = benchmarks(*options)
    assert status == 1
    expected = f"error: There is no file {tmp_path / 'winograd_wsc.jsonl'}, which wsc273 needs: put it there"
    assert expected in errors.splitlines()[-1]


def test_a_model_outside_of_a_run_needs_out():
    status, _, errors = benchmarks("--model", MODEL)
    assert (status, errors) == (
        1,
        f"error: Give OUT=FILE: {MODEL} lies in no folder of a run, where benchmarks.json would go.\n",
    )


@pytest.mark.parametrize(
    ("counts", "limit", "shares"),
    [
        ([10, 10, 10], 7, [3, 2, 2]),
        ([1, 10, 10], 7, [1, 3, 3]),
        ([10] * 6, 3, [1, 0, 1, 0, 1, 0]),
        ([2, 3], 100, [2, 3]),
    ],
)
def test_a_limit_is_shared_among_subjects(counts, limit, shares):
    assert run.spread(counts, limit) == shares
    assert sum(shares) == min(limit, sum(counts))
