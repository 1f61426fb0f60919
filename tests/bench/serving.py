"""The protocol of a measured process: a command a line on standard input, a line of JSON on standard output for each.

`trim` returns free memory to the system; `drop` forgets everything that was built, too; all other commands are the
process's own. The first line that a process writes tells its number of threads.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable

import torch


def serve(commands: dict[str, Callable[[], dict]]) -> None:
    """Answers until standard input ends. What the commands are bound to must be held by nothing else."""
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
            raise SystemExit(f"{word!r} is no command here; there are trim, drop and {', '.join(commands)}.")
        print(json.dumps(answer), flush=True)
