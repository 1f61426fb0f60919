"""The comparison on a real chat model, made on the demo's island: every step runs, and what is finished stays."""

import json
import os
import subprocess
import xml.etree.ElementTree

import pytest
from conftest import ROOT

STUDY = """title = "λ on the island"
about = "A test."
model = "fixtures/demo/sft-model"
out = "{out}/runs"
page = "{out}/page.md"
threads = 1
jobs = 2
dimensions = ["brevity", "variety"]
responses = "{out}/responses.jsonl"
chats = "{out}/chats.jsonl"
shown = "docs/tutorial/prompts.jsonl"
records = {{ num_train = 6, num_eval = 6, num_rest = 4, num_sft = 0 }}
config = {{ stage = "lambda_dpo", data = {{ cutoff_len = 256 }}, lambda = {{ alpha = 0.1 }}, train = {{ max_steps = 2 }} }}
steer = {{ num_prompts = 3, max_new_tokens = 6 }}
answers = {{ num_prompts = 3, max_new_tokens = 6, temperature = 1.0 }}

[candidates]
slow = {{ train = {{ learning_rate = 1e-3 }} }}
fast = {{ train = {{ learning_rate = 1e-2 }} }}

[policies]
lambda_adapter = {{ adapter = {{ kind = "lambda_lora", rank = 2, rank_per_dimension = 2 }} }}
specialist = {{ adapter = {{ rank = 2 }}, train = {{ max_steps = 1 }} }}
unconditioned = {{ adapter = {{ rank = 6 }} }}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    rows = [json.loads(line) for line in (ROOT / "fixtures" / "demo" / "records.jsonl").read_text().splitlines()]
    unrated = [
        {"instruction": row["instruction"], "completions": [{"response": c["response"]} for c in row["completions"]]}
        for row in rows
    ]
    (out / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unrated))
    chats = (ROOT / "fixtures" / "demo" / "sft.jsonl").read_text().splitlines()[:4]
    (out / "chats.jsonl").write_text("\n".join(chats) + "\n")
    file = out / "study.toml"
    file.write_text(STUDY.format(out=out))
    return file


def make(study):
    command = [ROOT / ".venv" / "bin" / "python", ROOT / "ci" / "real_model" / "compare.py", study]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})


def test_every_policy_is_trained_measured_and_described(study):
    done = make(study)
    assert done.returncode == 0, done.stderr
    out = study.parent
    text = (out / "page.md").read_text()
    for part in ("Mean score of generated text", "Expected rating of held-out responses", "Reported is "):
        assert part in text, text
    assert text.count("| brevity |") == 2 and text.count("| brevity = 1 |") == 1
    assert "Explain baking bread" in text.split("## Answers")[1]
    for name in ("generated", "held-out"):
        assert f"(page/{name}.svg)" in text
        picture = xml.etree.ElementTree.parse(out / "page" / f"{name}.svg").getroot()
        assert len(picture.findall("{*}polyline")) == 2 and len(picture.findall("{*}circle")) == 10 + 1
    # Settings are chosen on records of their own.
    parts = [
        {json.loads(line)["instruction"] for line in (out / "runs" / "data" / f"{name}.jsonl").read_text().splitlines()}
        for name in ("records", "rest", "eval")
    ]
    assert [len(part) for part in parts] == [6, 4, 6] and len(set.union(*parts)) == 16
    made = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.json*")}
    assert len([path for path in made if path.name == "steer.json"]) == 5
    again = make(study)
    assert again.returncode == 0, again.stderr
    kept = {path: time for path, time in made.items() if path.name != "prompts.jsonl"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (out / "page.md").read_text() == text


def test_other_settings_and_missing_keys_are_refused(study):
    assert (study.parent / "page.md").exists(), "made by the test above"
    text = study.read_text()
    study.write_text(text.replace("num_prompts = 3, max_new_tokens = 6 }", "num_prompts = 2, max_new_tokens = 6 }", 1))
    done = make(study)
    assert done.returncode == 1 and "was made with other settings (compare " in done.stderr
    study.write_text(text.replace('responses = "', 'answers_file = "'))
    done = make(study)
    assert (done.returncode, done.stderr.strip()) == (1, f"error: {study}: the key 'responses' is missing.")
    study.write_text(text)
