"""A data folder in the layout that `make benchmarks` reads, with questions about the demo's island."""

import bz2
import json
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "ci" / "benchmarks"))

ANIMALS = ("otter", "badger", "fox", "owl", "hare", "mole", "crane", "wolf")
FOODS = ("fish", "roots", "berries", "moss")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    questions = [f"What does the {animal} eat?" for animal in ANIMALS]
    arc = [
        {"query": f"Question: {question}", "choices": [f"It eats {food}." for food in FOODS], "gold": number % 4}
        for number, question in enumerate(questions)
    ]
    (folder / "arc_challenge.jsonl").write_text(lines(arc))
    gsm8k = [
        {"question": question, "answer": f"It eats fish {number} times.\n#### {number}"}
        for number, question in enumerate(questions)
    ]
    (folder / "gsm8k_test.jsonl").write_text(lines(gsm8k))
    hellaswag = [
        line
        for number, animal in enumerate(ANIMALS)
        for line in (f"Island: The {animal} wakes. it", str(number % 4), *(f"eats {food}." for food in FOODS))
    ]
    (folder / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress("\n".join(hellaswag).encode()))
    truthfulqa = [
        {
            "question": question,
            "mc1_targets": {"It eats fish.": 1, "It eats moss.": 0},
            "mc2_targets": {"It eats fish.": 1, "It eats roots.": 1, "It eats moss.": 0},
        }
        for question in questions
    ]
    (folder / "truthfulqa_mc_task.json").write_text(json.dumps(truthfulqa))
    wsc = [
        {
            "context_options": [
                f"The fox fears the {animal} because the fox",
                f"The fox fears the {animal} because the {animal}",
            ],
            "continuation": "is red.",
            "gold": number % 2,
        }
        for number, animal in enumerate(ANIMALS)
    ]
    (folder / "winograd_wsc.jsonl").write_text(lines(wsc))
    with zipfile.ZipFile(folder / "mmlu.zip", "w") as archive:
        for subject in ("anatomy", "virology", "astronomy"):
            for split in ("dev", "test"):
                rows = [
                    f'"{question} ({split})",{",".join(FOODS)},{"ABCD"[number % 4]}'
                    for number, question in enumerate(questions)
                ]
                archive.writestr(f"data/{split}/{subject}_{split}.csv", "\n".join(rows) + "\n")
            archive.writestr(f"data/val/{subject}_val.csv", "not,read\n")
    return folder
