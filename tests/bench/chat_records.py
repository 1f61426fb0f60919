"""Makes the records of the chat model's benchmark: those of ci/paper/text/records.py, with six answers to a prompt.

    .venvs/raters/bin/python tests/bench/chat_records.py RESPONSES.jsonl OUT [--num-train 40] …

The arguments and the files are that script's.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "ci" / "paper" / "text"))

import records

# The study, whose policies it compares on the CPU, makes do with four.
records.NUM_RESPONSES = 6

if __name__ == "__main__":
    records.main()
