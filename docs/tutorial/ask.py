"""Writes every prompt in four styles, so that the answers differ in what rate.py rates.

    python3 ask.py < prompts.jsonl > asked.jsonl

`lambda-dpo generate --prompts` copies the field `question`, the prompt without a style, to its answers.
"""

import json
import sys

STYLES = (
    "",
    "Answer in one short sentence.",
    "Answer with a numbered list.",
    "Answer in the first person, from your own experience.",
)

for line in sys.stdin:
    question = json.loads(line)["prompt"]
    for style in STYLES:
        print(json.dumps({"prompt": f"{question} {style}".rstrip(), "question": question}, ensure_ascii=False))
