"""Local files of the six benchmarks, turned into the documents that lm-eval's own tasks read from the hub.

Each function reads one file of the data folder and returns its splits: lists of documents with the fields of the hub's
dataset, so that the tasks' prompts and metrics apply as they are. `docs/lm-eval.md` describes the files.
"""

import bz2
import csv
import io
import json
import os.path
import re
import zipfile
from pathlib import Path

Splits = dict[str, list[dict]]

NUM_GSM8K_SHOTS = 5


class DataError(Exception):
    """What is wrong with a file, and what to do."""


def json_lines(path: Path, fields: dict[str, type]) -> list[dict]:
    """Reads JSON lines and checks the fields that are used."""
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            document = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: this is no JSON ({error}); get the file again.") from error
        check(document, fields, f"{path}, line {number}")
        documents.append(document)
    return documents


def check(document: dict, fields: dict[str, type], place: str) -> None:
    for name, kind in fields.items():
        if not isinstance(document, dict) or not isinstance(document.get(name), kind):
            raise DataError(
                f"{place}: the field `{name}` is missing or no {kind.__name__}; docs/lm-eval.md says what the file must"
                " hold."
            )


def arc_challenge(path: Path) -> Splits:
    documents = []
    for number, row in enumerate(json_lines(path, {"query": str, "choices": list, "gold": int}), 1):
        letters = [chr(ord("A") + index) for index in range(len(row["choices"]))]
        if not 0 <= row["gold"] < len(letters):
            raise DataError(f"{path}, line {number}: `gold` is {row['gold']}, but there are {len(letters)} choices.")
        documents.append(
            {
                "question": row["query"].removeprefix("Question: "),
                "choices": {"text": row["choices"], "label": letters},
                "answerKey": letters[row["gold"]],
            }
        )
    return {"test": documents}


def hellaswag(path: Path) -> Splits:
    """Questions of six lines each: the context, the index of the right ending, and four endings.

    The hub's dataset has the context in two parts, and the task capitalises the second: the start of the sentence that
    the endings continue. It is what follows the last full sentence, if anything does.
    """
    lines = bz2.decompress(path.read_bytes()).decode("utf-8").splitlines()
    documents = []
    for start in range(0, len(lines), 6):
        question = lines[start : start + 6]
        place = f"{path}, line {start + 1}"
        if (
            len(question) < 6
            or not question[1].strip().isdigit()
            or not 0 <= int(question[1]) < 4
            or ": " not in question[0]
        ):
            raise DataError(
                f"{place}: a question has six lines (activity and context, index of the right ending, four endings),"
                " and this one has not; get the file again."
            )
        activity, context = question[0].split(": ", 1)
        whole, begun = re.fullmatch(r"(.*[.!?][\"')]*\s+|)(.*)", context.strip()).groups()
        if re.search(r"[.!?][\"')]*$", begun):
            whole, begun = whole + begun, ""
        documents.append(
            {
                "activity_label": activity,
                "ctx_a": whole.strip(),
                "ctx_b": begun,
                "endings": question[2:],
                "label": question[1].strip(),
            }
        )
    return {"validation": documents}


def truthfulqa_mc2(path: Path) -> Splits:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: this is no JSON ({error}); get the file again.") from error
    documents = []
    for number, row in enumerate(rows, 1):
        check(row, {"question": str, "mc1_targets": dict, "mc2_targets": dict}, f"{path}, question {number}")
        document = {"question": row["question"]}
        for name in ("mc1_targets", "mc2_targets"):
            document[name] = {"choices": list(row[name]), "labels": list(row[name].values())}
        documents.append(document)
    return {"validation": documents}


def wsc273(path: Path) -> Splits:
    """The hub's dataset has a text with a pronoun and two options for it; the file has the text with each option.

    "it" stands for the pronoun: the task replaces it by the options, and the file's options have their case and 's.
    """
    documents = []
    rows = json_lines(path, {"context_options": list, "continuation": str, "gold": int})
    for number, row in enumerate(rows, 1):
        options = row["context_options"]
        if len(options) != 2 or row["gold"] not in (0, 1):
            raise DataError(f"{path}, line {number}: a question has two `context_options` and a `gold` of 0 or 1.")
        start = os.path.commonprefix(options).rfind(" ") + 1
        documents.append(
            {
                "text": f"{options[0][:start]}it {row['continuation']}",
                "pronoun": "it",
                "pronoun_loc": start,
                "options": [option[start:] for option in options],
                "label": row["gold"],
            }
        )
    return {"test": documents}


def gsm8k(path: Path) -> Splits:
    """The test set. Its worked examples come from `gsm8k_train.jsonl` beside it or, without one, are its last five
    questions, which then are not scored."""
    fields = {"question": str, "answer": str}
    test = json_lines(path, fields)
    train = path.with_name("gsm8k_train.jsonl")
    if train.exists():
        return {"train": json_lines(train, fields), "test": test}
    if len(test) <= NUM_GSM8K_SHOTS:
        raise DataError(
            f"{path}: it has {len(test)} questions, of which the last {NUM_GSM8K_SHOTS} are the worked examples;"
            " put gsm8k_train.jsonl beside it or give more."
        )
    return {"train": test[-NUM_GSM8K_SHOTS:], "test": test[:-NUM_GSM8K_SHOTS]}


def mmlu(path: Path) -> dict[str, Splits]:
    """Splits by subject, from the authors' archive: `data/dev/<subject>_dev.csv`, `data/test/<subject>_test.csv`."""
    subjects: dict[str, Splits] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = re.fullmatch(r"data/(dev|test)/(\w+)_\1\.csv", name)
            if parts is None:
                continue
            split, subject = parts.groups()
            rows = csv.reader(io.StringIO(archive.read(name).decode("utf-8")))
            documents = []
            for number, row in enumerate(rows, 1):
                if len(row) != 6 or row[5] not in ("A", "B", "C", "D"):
                    raise DataError(
                        f"{path}, {name}, row {number}: a row has a question, four choices and a letter from A to D;"
                        " get the archive again."
                    )
                documents.append({"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])})
            subjects.setdefault(subject, {})[split] = documents
    for subject, splits in subjects.items():
        if missing := {"dev", "test"} - splits.keys():
            raise DataError(
                f"{path}: the subject {subject} lacks its {missing.pop()} questions; get the archive again."
            )
    if not subjects:
        raise DataError(f"{path}: it holds no file such as data/test/anatomy_test.csv; get the archive again.")
    return subjects
