"""Makes records for λ-DPO of answers.jsonl: for each question, the answers to it in all styles, with their ratings.

    python3 make_records.py answers.jsonl train.jsonl eval.jsonl

The last fifth of the questions is held out, in eval.jsonl.
"""

import json
import re
import sys
from pathlib import Path

from rate import rate

# To the last end of a sentence, which the number of an item is not.
COMPLETE = re.compile(r".*[^\d\s][.!?](?=\s|$)", re.DOTALL)


def finished(answer: dict[str, str]) -> str:
    """Returns the answer; if it ran out of tokens, up to its last complete sentence or item."""
    text = answer["response"].strip()
    if answer["finish_reason"] == "length":
        sentences = COMPLETE.match(text)
        lines = text.rpartition("\n")[0]
        text = max(sentences.group() if sentences else "", lines, key=len).rstrip()
    return text


def record(question: str, responses: list[str]) -> str:
    completions = [
        {
            "response": response,
            "annotations": {name: {"Rating": str(round(rating, 2))} for name, rating in rate(response).items()},
        }
        for response in responses
    ]
    return json.dumps({"instruction": question, "completions": completions}, ensure_ascii=False) + "\n"


def main(answers: Path, train: Path, held_out: Path) -> None:
    responses: dict[str, list[str]] = {}
    for line in answers.read_text(encoding="utf-8").split("\n"):
        if line:
            answer = json.loads(line)
            response = finished(answer)
            known = responses.setdefault(answer["question"], [])
            if response and response not in known:
                known.append(response)
    # With a single answer there is nothing to prefer.
    records = [record(question, given) for question, given in responses.items() if len(given) > 1]
    num_train = len(records) * 4 // 5
    train.write_text("".join(records[:num_train]), encoding="utf-8")
    held_out.write_text("".join(records[num_train:]), encoding="utf-8")
    print(f"{num_train} records in {train}, {len(records) - num_train} in {held_out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
