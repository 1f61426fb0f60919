"""What scoring held-out records takes beside a plain forward pass: `score`, `steer` and the reference pass.

All go over the same tokens, in float32 or bfloat16:

forward     the model's forward pass: hidden states and the log-probs of the responses, without gradients; records
            share packed rows, so that nothing is padded
reference   the reference pass over the same rows
score       `lambda-dpo score`
steer       `lambda-dpo steer` with a λ-adapter: a pass of the reference and one at each λ of a grid; the time is that
            of one pass, on average

The last two are commands of the program, whose start is not scoring: each runs once on all records and once on the
first of them, and the difference counts. So the forward pass leaves out the first record.
"""

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chat_scenario import ChatScenario, LambdaScenario, Tokenized, write_records
from sides import PROGRAM, Side, environment, ratio, run_rounds, rust_side
from whole_step import close

# Tokens of a row of the plain forward pass at most, unless a record has more by itself.
ROW_TOKENS = 2048
# steer measures at each corner of two dimensions, after the reference.
NUM_STEERED = 2
NUM_STEER_PASSES = 1 + NUM_STEERED


def rows(records: list[Tokenized]) -> list[list[Tokenized]]:
    """Groups records into rows."""
    found: list[list[Tokenized]] = []
    for record in records:
        if not found or record.num_tokens + sum(other.num_tokens for other in found[-1]) > ROW_TOKENS:
            found.append([])
        found[-1].append(record)
    return found


def summed(sides: list[Side], word: str) -> dict:
    """Asks all sides, one after the other, and adds up their answers."""
    answers = [side.ask(word) for side in sides]
    return {key: sum(answer[key] for answer in answers) for key in answers[0]}


@dataclass
class Commands:
    """The program's commands on held-out records."""

    model: Path
    dtype: str
    scratch: Path
    records: list[Tokenized]
    adapter: Path

    def __post_init__(self) -> None:
        write_records(self.file("all"), self.records)
        write_records(self.file("first"), self.records[:1])

    def file(self, which: str) -> Path:
        return self.scratch / f"{which}.jsonl"

    def run(self, command: str, which: str, *arguments: str | Path) -> dict:
        """Runs a command on the records of a file; the seconds that it took."""
        common = ["--model", str(self.model), "--device", "cpu", "--dtype", self.dtype]
        cpu_before = children_cpu_seconds()
        started = time.perf_counter()
        done = subprocess.run(
            [PROGRAM.with_name("lambda-dpo"), command, *common, "--records", self.file(which), *arguments],
            env=environment(LAMBDA_DPO_CACHE=str(self.scratch / "cache")),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise SystemExit(f"`lambda-dpo {command}` failed:\n{done.stderr}")
        return {"seconds": seconds, "cpu_seconds": children_cpu_seconds() - cpu_before}

    def score(self, which: str) -> dict:
        out = self.scratch / "scores.jsonl"
        answer = self.run("score", which, "--out", out)
        if which == "all":
            self.check_scores(out)
        return answer

    def check_scores(self, file: Path) -> None:
        """Checks that the program scored the tokens that the other sides compute."""
        scored = [json.loads(line)["num_tokens"] for line in file.read_text().splitlines()]
        expected = [[len(response) for response in record.responses] for record in self.records]
        if scored != expected:
            raise SystemExit(
                "`lambda-dpo score` counts other tokens than the chat template gives: nothing is compared."
            )

    def steer(self, which: str) -> dict:
        out = self.scratch / "steer"
        answer = self.run("steer", which, "--adapter", self.adapter, "--steps", "1", "--out", out)
        report = json.loads((out / "steer.json").read_text())
        num_records = len(self.records) if which == "all" else 1
        if (len(report["points"]), report["num_records"]) != (NUM_STEERED, num_records):
            raise SystemExit("`lambda-dpo steer` did not measure what it was asked to: nothing is compared.")
        shutil.rmtree(out)
        return answer


def children_cpu_seconds() -> float:
    """CPU time of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def difference(command: Callable[[str], dict], num_passes: int = 1) -> dict:
    """Time of one pass of a command over all records but the first."""
    first, all_of_them = command("first"), command("all")
    return {key: (all_of_them[key] - first[key]) / num_passes for key in ("seconds", "cpu_seconds")}


def compare_scoring(model: Path, records: list[Tokenized], dtype: str, scratch: Path, num_rounds: int) -> dict:
    """Times of all ways to score records, and their ratios to a plain forward pass."""
    folder = scratch / f"scoring-{dtype}"
    folder.mkdir()
    measured = records[1:]
    two = tuple(records[0].dimensions[:NUM_STEERED])
    adapted = LambdaScenario.of(model, records[:1], name="steered", lora_rank=8, adapted_dimensions=two)
    commands = Commands(model, dtype, folder, records, adapted.write(folder) / "adapter")
    sides = []
    for number, row in enumerate(rows(measured)):
        lora = ChatScenario.of(model, row, name=f"row-{number}", lora_rank=1, dtype=dtype, row_tokens=ROW_TOKENS)
        sides.append(rust_side(lora.name, "step", lora.write(folder)))
    turns = {
        "forward": partial(summed, sides, "forward"),
        "reference": partial(summed, sides, "reference"),
        "score": partial(difference, commands.score),
        "steer": partial(difference, commands.steer, NUM_STEER_PASSES),
    }
    timings = run_rounds(turns, num_rounds)
    close(sides)
    whole = ChatScenario.of(model, measured, name="all")
    return {
        "num_records": len(measured),
        "num_tokens": whole.num_unique_tokens,
        "num_targets": whole.num_targets,
        "num_rows": len(sides),
        "seconds": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {name: ratio(timings[name], timings["forward"]) for name in timings if name != "forward"},
    }
