"""Rates answers from 1 to 5 in three dimensions. As a rater of `lambda-dpo steer`, it reads a line
{"prompt": …, "response": …} for each answer and writes a line {"brevity": …, "structure": …, "personal": …}.

    python3 rate.py < answers.jsonl

Replace `rate` by what you care about: a classifier, a reward model, or a model that is asked for a grade.
"""

import json
import re
import sys

ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
FIRST_PERSON = re.compile(r"\b(?:I|I'm|I've|me|my|mine|we|our|us)\b")


def rate(response: str) -> dict[str, float]:
    num_words = len(response.split())
    own = len(FIRST_PERSON.findall(response)) / max(num_words, 1)
    return {
        # 5 for no words, 1 from 100 words on.
        "brevity": 5 - 4 * min(num_words, 100) / 100,
        # 1 without a list, 5 from four items on.
        "structure": 1.0 + min(len(ITEM.findall(response)), 4),
        # 1 without words like "I" and "my", 5 if every twelfth word is one.
        "personal": 1 + 4 * min(12 * own, 1),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(rate(json.loads(line)["response"])), flush=True)
