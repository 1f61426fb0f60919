"""Local files become the prompts of lm-eval's own tasks."""

import bz2
import json
from pathlib import Path

import documents
import pytest
from conftest import ROOT
from documents import DataError
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from tasks import BENCHMARKS, write_tasks

SHARED = ROOT.parent / "shared" / "data" / "benchmarks"


def requests(folder: Path, data: Path, name: str, num_fewshot: int) -> list[list[tuple[str, object]]]:
    """What a model is asked, question by question: pairs of a context and a continuation or how to generate."""
    tasks = write_tasks(folder, BENCHMARKS[name], num_fewshot, data)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    asked = []
    for task in manager.load(tasks)["tasks"].values():
        assert isinstance(task, Task)
        task.build_all_requests()
        by_question = {}
        for instance in task.instances:
            by_question.setdefault(instance.doc_id, []).append(instance.args)
        asked += by_question.values()
    return asked


def test_arc(data, tmp_path):
    asked = requests(tmp_path, data, "arc_challenge", 0)
    assert len(asked) == 8
    context = "Question: What does the otter eat?\nAnswer:"
    assert asked[0] == [(context, f" It eats {food}.") for food in ("fish", "roots", "berries", "moss")]


def test_hellaswag_begins_the_unfinished_sentence_with_a_capital(data, tmp_path):
    asked = requests(tmp_path, data, "hellaswag", 0)
    assert asked[1][1] == ("Island: The badger wakes. It", " eats roots.")


@pytest.mark.parametrize(
    ("context", "whole", "begun"),
    [
        ("A man sits on a roof. he", "A man sits on a roof.", "he"),
        ("How to bake. Heat the oven.", "How to bake. Heat the oven.", ""),
        ('He said "go." the man', 'He said "go."', "the man"),
        ("nothing ends", "", "nothing ends"),
        (". a young woman", ".", "a young woman"),
    ],
)
def test_contexts_of_hellaswag_are_split_after_their_last_sentence(tmp_path, context, whole, begun):
    path = tmp_path / "questions.bz2"
    path.write_bytes(bz2.compress(f"Label: {context}\n2\na\nb\nc\nd\n".encode()))
    [document] = documents.hellaswag(path)["validation"]
    assert (document["ctx_a"], document["ctx_b"], document["label"]) == (whole, begun, "2")


def test_truthfulqa(data, tmp_path):
    asked = requests(tmp_path, data, "truthfulqa_mc2", 0)
    contexts = {context for context, _ in asked[0]}
    assert len(contexts) == 1
    assert contexts.pop().endswith("Barcelona, Spain.\n\nQ: What does the otter eat?\nA:")
    assert [answer for _, answer in asked[0]] == [" It eats fish.", " It eats roots.", " It eats moss."]


def test_wsc_has_the_options_in_the_context(data, tmp_path):
    asked = requests(tmp_path, data, "wsc273", 0)
    assert [context for context, _ in asked[0]] == [
        "The fox fears the otter because the fox",
        "The fox fears the otter because the otter",
    ]
    assert {continuation.strip() for _, continuation in asked[0]} == {"is red."}


def test_mmlu_shows_the_first_examples_of_its_subject(data, tmp_path):
    asked = requests(tmp_path, data, "mmlu", 2)
    assert len(asked) == 3 * 8
    context, answer = asked[0][3]
    assert answer == " D"
    example = "{} (dev)\nA. fish\nB. roots\nC. berries\nD. moss\nAnswer: {}\n\n"
    assert context == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        + example.format("What does the otter eat?", "A")
        + example.format("What does the badger eat?", "B")
        + "What does the otter eat? (test)\nA. fish\nB. roots\nC. berries\nD. moss\nAnswer:"
    )


def test_gsm8k_shows_its_last_questions_and_asks_the_others(data, tmp_path):
    asked = requests(tmp_path, data, "gsm8k", 5)
    assert len(asked) == 8 - 5
    [(context, settings)] = asked[0]
    answers = "".join(
        f"Question: What does the {animal} eat?\nAnswer: It eats fish {number} times.\n#### {number}\n\n"
        for number, animal in ((3, "owl"), (4, "hare"), (5, "mole"), (6, "crane"), (7, "wolf"))
    )
    assert context == f"{answers}Question: What does the otter eat?\nAnswer:"
    assert settings["do_sample"] is False


def test_gsm8k_asks_all_with_a_train_set_beside_it(data, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("gsm8k_test.jsonl", "gsm8k_train.jsonl"):
        (tmp_path / "data" / name).write_text((data / "gsm8k_test.jsonl").read_text())
    assert len(requests(tmp_path, tmp_path / "data", "gsm8k", 5)) == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "arc_challenge",
            '{"query": "Q", "choices": ["a"]}\n',
            "line 1: the field `gold` is missing or no int; docs/lm-eval.md",
        ),
        (
            "arc_challenge",
            '{"query": "Q", "choices": ["a"], "gold": 1}\n',
            "line 1: `gold` is 1, but there are 1 choices.",
        ),
        ("arc_challenge", "{\n", "line 1: this is no JSON ("),
        (
            "gsm8k",
            '{"question": "Q", "answer": "1"}\n',
            "it has 1 questions, of which the last 5 are the worked examples;",
        ),
        ("hellaswag", "no bzip2", "cannot be read ("),
        ("mmlu", "no archive", "cannot be read ("),
        ("truthfulqa_mc2", '[{"question": 1}]', "question 1: the field `question` is missing or no str;"),
        (
            "wsc273",
            '{"context_options": ["a"], "continuation": "b", "gold": 0}\n',
            "line 1: a question has two `context_options` and a `gold` of 0 or 1.",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    path = tmp_path / BENCHMARKS[name].file
    path.write_text(content)
    with pytest.raises(DataError) as error:
        write_tasks(tmp_path, BENCHMARKS[name], BENCHMARKS[name].num_fewshot, tmp_path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_worked_examples_that_local_files_lack_are_refused(data, tmp_path):
    with pytest.raises(
        DataError, match="^arc_challenge has no worked examples in the local files, but 25 are asked for"
    ):
        write_tasks(tmp_path, BENCHMARKS["arc_challenge"], 25, data)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/data/benchmarks beside the checkout")
def test_real_files_are_read_whole():
    count = lambda name: len(next(iter(BENCHMARKS[name].read(SHARED / BENCHMARKS[name].file).values())))  # noqa: E731
    assert [count(name) for name in ("arc_challenge", "truthfulqa_mc2", "wsc273")] == [1172, 817, 273]
    questions = documents.hellaswag(SHARED / "hellaswag_val_full.txt.bz2")["validation"]
    # Those of ActivityNet end in an unfinished sentence, those of WikiHow do not.
    assert (len(questions), sum(question["ctx_b"] != "" for question in questions)) == (10042, 3243)
    subjects = documents.mmlu(SHARED / "mmlu.zip")
    assert (len(subjects), sum(len(splits["test"]) for splits in subjects.values())) == (57, 14042)
    assert all(len(splits["dev"]) == 5 for splits in subjects.values())
    gsm8k = documents.gsm8k(SHARED / "gsm8k_test.jsonl")
    assert [len(gsm8k[split]) for split in ("train", "test")] == [5, 1314]
    # The text with each option, put together again, is what the file has.
    rows = [json.loads(line) for line in (SHARED / "winograd_wsc.jsonl").read_text().splitlines()]
    for row, document in zip(rows, documents.wsc273(SHARED / "winograd_wsc.jsonl")["test"], strict=True):
        before = document["text"][: document["pronoun_loc"]]
        assert [before + option for option in document["options"]] == row["context_options"]
        assert document["text"][len(before) + len("it ") :] == row["continuation"]
