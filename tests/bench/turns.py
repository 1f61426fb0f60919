"""Sides of a comparison in processes of their own, which take turns."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Results = dict[str, list[dict]]


def take_turns(
    doc: str,
    script: str,
    sides: Sequence[str],
    num_turns: int,
    num_threads: int,
    write_model: Callable[[str], None],
    side: Callable[[str, str, int], None],
) -> Results | None:
    """Runs a script's sides in turn and returns what each printed last, as JSON; None in the process of a side.

    The command line says how many steps and turns. `script` starts itself again for each turn, where `side(name, model,
    steps)` runs one side on the model that `write_model(folder)` wrote.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=num_turns)
    parser.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.model, options.steps)
        return None
    results: Results = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as scratch:
        model = str(Path(scratch) / "model")
        write_model(model)
        environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "LAMBDA_DPO_CACHE": scratch}
        for _ in range(options.turns):
            for name in sides:
                command = [sys.executable, script, "--side", name, "--model", model, "--steps", str(options.steps)]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results
