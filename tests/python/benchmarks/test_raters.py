"""The text raters of the study: records and generated texts are rated alike, in an environment of their own."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

PYTHON = ROOT / ".venvs" / "raters" / "bin" / "python"
FOLDER = ROOT / "ci" / "paper" / "text"
WORDS = ("good", "awful", "plain", "wonderful", "dreadful", "extraordinarily", "cat", "characteristically")


def answers(number):
    """Six answers to a prompt, of different words and lengths."""
    return [
        " ".join(WORDS[(number + index * turn) % len(WORDS)] for turn in range(index + 2)) + "." for index in range(6)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raters")
    rows = [
        {"instruction": f"Prompt {number}", "completions": [{"response": text} for text in answers(number)]}
        for number in range(24)
    ]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ("--num-train", "8", "--num-eval", "6", "--num-rest", "4", "--num-sft", "6")
    command = [PYTHON, FOLDER / "records.py", folder / "responses.jsonl", folder / "out", *sizes]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "out"


def read(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rate(made, texts):
    """What the rater writes for texts."""
    lines = "".join(json.dumps({"prompt": "", "response": text}) + "\n" for text in texts)
    command = [PYTHON, FOLDER / "rate.py", made / "scale.json"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_prompts_are_in_one_file_only(made):
    prompts = [{row["instruction"] for row in read(made / f"{name}.jsonl")} for name in ("records", "eval", "rest")]
    prompts.append({row["messages"][0]["content"] for row in read(made / "sft.jsonl")})
    assert [len(part) for part in prompts] == [8, 6, 4, 6]
    assert len(set.union(*prompts)) == 24


def test_the_rater_gives_generated_text_the_ratings_of_records(made):
    for name in ("records", "eval"):
        completions = [completion for row in read(made / f"{name}.jsonl") for completion in row["completions"]]
        expected = [
            {dimension: float(annotation["Rating"]) for dimension, annotation in completion["annotations"].items()}
            for completion in completions
        ]
        assert rate(made, [completion["response"] for completion in completions]) == expected


def test_a_rating_is_the_place_among_the_training_answers(made):
    scale = json.loads((made / "scale.json").read_text())
    texts = [completion["response"] for row in read(made / "records.jsonl") for completion in row["completions"]]
    ratings = rate(made, texts)
    for text, rating in zip(texts, ratings, strict=True):
        words = [len(other.split()) for other in texts]
        better = (
            sum(number > len(text.split()) for number in words)
            + sum(number == len(text.split()) for number in words) / 2
        )
        assert rating["brevity"] == pytest.approx(1 + 4 * better / len(texts), abs=0.005)
    for dimension, values in scale.items():
        assert values == sorted(values) and len(values) == len(texts)
        mean = sum(rating[dimension] for rating in ratings) / len(ratings)
        assert mean == pytest.approx(3, abs=0.01), "the median is 3"


def test_directions(made):
    cheerful, gloomy, long = (
        "A wonderful, great, happy day!",
        "An awful, sad, horrible day.",
        "Characteristically extraordinary. " * 30,
    )
    rated = rate(made, [cheerful, gloomy, long, " ... "])
    assert rated[0]["positivity"] > rated[1]["positivity"]
    assert rated[0]["simplicity"] > rated[2]["simplicity"]
    assert rated[0]["brevity"] > rated[2]["brevity"]
    assert rated[3] == {"positivity": 1.0, "simplicity": 1.0, "brevity": 1.0}, "no word is no answer"


def test_too_few_prompts_and_bad_lines_are_said(tmp_path):
    file = tmp_path / "responses.jsonl"
    for text, message in (
        (
            '{"instruction": "a", "completions": []}\n',
            f"error: {file} has 0 prompts with 4 answers that are short enough, but ",
        ),
        ("[]\n", f"error: {file}, line 1: it is no object with `instruction` and `completions` ("),
    ):
        file.write_text(text)
        done = subprocess.run([PYTHON, FOLDER / "records.py", file, tmp_path / "out"], capture_output=True, text=True)
        assert (done.returncode, done.stderr[: len(message)]) == (1, message)
        assert not (tmp_path / "out").exists()
