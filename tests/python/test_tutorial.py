"""docs/tutorial.md: its commands as they are written, with the demo's model and few prompts, and what its scripts do."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from written_models import BUILT, ROOT

TUTORIAL = ROOT / "docs" / "tutorial"


def load(name):
    """Loads a script of the tutorial; another test's scripts have the same names."""
    spec = importlib.util.spec_from_file_location(f"tutorial_{name}", TUTORIAL / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rate = load("rate").rate


@pytest.fixture
def finished(monkeypatch):
    monkeypatch.setitem(sys.modules, "rate", load("rate"))
    return load("make_records").finished


def test_the_page_runs_as_it_is_written(tmp_path):
    out = tmp_path / "out"
    environment = os.environ | {
        "TUTORIAL_PROMPTS": "5",
        "LAMBDA_DPO_PROGRAM": str(BUILT / "lambda-dpo"),
        "LAMBDA_DPO_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, ROOT / "ci" / "tutorial.py", ROOT / "fixtures" / "demo" / "sft-model", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = lambda name: [json.loads(line) for line in (out / name).read_text().splitlines()]
    assert len(rows("answers.jsonl")) == 20
    assert {answer["question"] for answer in rows("answers.jsonl")} == {
        row["prompt"] for row in rows("prompts.jsonl")
    }
    assert 1 < len(rows("train.jsonl")) + len(rows("eval.jsonl")) <= 5
    report = json.loads((out / "report" / "steer.json").read_text())
    assert report["dimensions"] == ["brevity", "personal", "structure"]
    assert all("score/structure" in point["generated"] for point in report["points"])
    assert '"object":"chat.completion"' in done.stdout, "served"
    assert (out / "personal" / "model.safetensors").exists()


def test_the_rater_counts_words_items_and_first_persons():
    assert rate("Water it. Or not.") == {"brevity": 5 - 4 * 0.04, "structure": 1, "personal": 1}
    assert rate("1. Water\n2. Sun\n - Soil\n• Love\n* Time") == {"brevity": 4.6, "structure": 5, "personal": 1}
    assert rate("word " * 200)["brevity"] == 1
    assert rate("I water my cactus and it thanks me, with a bloom for every one of us.")["personal"] == 5
    assert rate("word " * 23 + "mine")["personal"] == 3


def test_an_answer_that_ran_out_of_tokens_ends_at_a_sentence_or_item(finished):
    cut = lambda text: finished({"response": text, "finish_reason": "length"})
    assert cut("It is so. It was") == "It is so."
    assert cut("1. One\n2. Two\n3. Th") == "1. One\n2. Two"
    assert cut("No end") == ""
    assert finished({"response": " No end ", "finish_reason": "stop"}) == "No end"
