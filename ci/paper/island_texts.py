"""Writes the texts of the study's language model: each answer of sft.jsonl after another conversation's prompt.

    python3 ci/paper/island_texts.py fixtures/demo/sft.jsonl OUT.jsonl

What a model learns from them is how the island's answers read, not what they answer: a base model, as far as there can
be one in a domain of its own.
"""

import json
import sys
from pathlib import Path

import json_lines


def main() -> None:
    source, out = map(Path, sys.argv[1:])
    conversations = [row["messages"] for row in json_lines.read(source)]
    shift = len(conversations) // 3
    lines = []
    for index, (*prompt, _) in enumerate(conversations):
        *_, answer = conversations[(index + shift) % len(conversations)]
        lines.append(json.dumps({"messages": [*prompt, answer]}, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
