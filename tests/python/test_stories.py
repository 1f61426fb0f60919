"""The records and the rater of the stories, with the demo's model instead of a model of stories."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from written_models import BUILT, ROOT

STORIES = ROOT / "fixtures" / "stories"
MODEL = ROOT / "fixtures" / "demo" / "sft-model"
sys.path.insert(0, str(STORIES))
from rate import VARIETY_WORDS, rate  # noqa: E402


def make_records(out: Path) -> list[str]:
    sizes = ["--train", "4", "--eval", "3"]
    subprocess.run([sys.executable, STORIES / "make_records.py", MODEL, out, *sizes], check=True, capture_output=True)
    return [(out / name).read_text() for name in ("records.jsonl", "eval.jsonl")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of records, and the text of its training and held-out files."""
    folder = tmp_path_factory.mktemp("data")
    return folder, make_records(folder)


def test_each_rule_counts_its_words():
    words = " ".join(f"w{chr(97 + number)}" for number in range(26)) + " xa xb xc xd"
    assert len(words.split()) == VARIETY_WORDS
    assert rate(words) == {"happy": 1, "dialogue": 1, "variety": 5, "sad": 1}
    assert rate(words + " wa wa wa wa wa wa")["variety"] == 5, "words after the thirtieth do not count"
    assert rate(words.replace("xa xb xc", "wa wa wa"))["variety"] == 4
    assert rate("") == {"happy": 1, "dialogue": 1, "variety": 1, "sad": 1}
    assert rate("He laughed and smiled.")["happy"] == 3
    assert rate("Happy, happy, happy, happy, happy!")["happy"] == 5
    assert rate("She cried. Her toy was LOST.")["sad"] == 3
    assert rate('"Hi," said Tim. "Come')["dialogue"] == 3, "an utterance may be cut off"


def test_records_hold_sampled_continuations_and_their_ratings(data, tmp_path):
    _, (train, held_out) = data
    records = [json.loads(line) for line in (train + held_out).splitlines()]
    assert (len(train.splitlines()), len(held_out.splitlines())) == (4, 3)
    assert len({record["instruction"] for record in records}) == 7
    for record in records:
        responses = [completion["response"] for completion in record["completions"]]
        assert len(set(responses)) == 4, "sampled"
        for completion in record["completions"]:
            found = {name: int(rated["Rating"]) for name, rated in completion["annotations"].items()}
            assert found == rate(completion["response"])
    assert make_records(tmp_path / "again") == [train, held_out]


def test_the_rater_scores_what_steer_generates(data, tmp_path):
    folder, _ = data
    rater = f"'{sys.executable}' '{STORIES / 'rate.py'}'"
    subprocess.run(
        [BUILT / "lambda-dpo", "steer", "--model", MODEL, "--records", folder / "eval.jsonl", "--rater", rater]
        + ["--out", tmp_path / "report", "--max-new-tokens", "16"],
        check=True,
        capture_output=True,
    )
    (point,) = json.loads((tmp_path / "report" / "steer.json").read_text())["points"]
    scores = {name: point["generated"][f"score/{name}"] for name in ("happy", "dialogue", "variety", "sad")}
    assert all(1 <= score <= 5 for score in scores.values())
