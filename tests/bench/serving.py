"""Protocol of a measured process: reads one command per line on stdin and answers with one line of JSON on stdout.

`trim` returns free memory to the system; `drop` also drops everything that was built; all other commands are the
process's own. The first line that a process writes has its number of threads.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable

import torch


def serve(commands: dict[str, Callable[[], dict]]) -> None:
    """Answers commands until standard input ends. Nothing else may hold the objects that the commands are bound to."""
    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "drop":
            commands = {}
        if word in ("drop", "trim"):
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            answer = {}
        elif word in commands:
            answer = commands[word]()
        else:
            raise SystemExit(f"{word!r} is not a command: the commands are trim, drop, {', '.join(commands)}.")
        print(json.dumps(answer), flush=True)
