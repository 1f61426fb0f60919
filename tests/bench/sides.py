"""The processes that are compared: each is started once, and they take turns while the others are idle."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "bench"
NUM_THREADS = 2


def environment(**variables: str) -> dict[str, str]:
    """Environment of a measured process: this one's with the benchmark's number of threads, and `variables`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LAMBDA_DPO")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(NUM_THREADS))
    return {**inherited, **threads, "TOKENIZERS_PARALLELISM": "false", **variables}


class Side:
    """A process that answers commands; see serving.py."""

    def __init__(self, name: str, command: list, **variables: str):
        self.name = name
        # A file, because a pipe that nobody reads would fill and block the process; shown if the process fails.
        self.messages = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env=environment(**variables),
        )
        self.about = self.answer()
        if self.about["threads"] != NUM_THREADS:
            raise SystemExit(f"{name} runs on {self.about['threads']} threads instead of {NUM_THREADS}.")

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.messages.seek(0)
            raise SystemExit(f"{self.name} ended before it answered:\n{self.messages.read()}")
        return json.loads(line)

    def ask(self, word: str) -> dict:
        """Sends a command and returns the answer, with the CPU seconds of all threads of the process added."""
        before = self.cpu_seconds()
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        answer["cpu_seconds"] = self.cpu_seconds() - before
        return answer

    def cpu_seconds(self) -> float:
        """CPU time of the live threads; threads of the pools never end."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def status_bytes(self, key: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(key + ":"))
        return int(line.split()[1]) * 1024

    def peak_bytes(self, word: str = "step") -> int:
        """Largest resident set while a command runs, after free memory was returned to the system."""
        self.ask("trim")
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.ask(word)
        return self.status_bytes("VmHWM")

    def empty_bytes(self) -> int:
        """Resident set after everything that was built has been dropped; the process cannot be used afterwards."""
        self.ask("drop")
        return self.status_bytes("VmRSS")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.messages.close()


def python_side(name: str, script: str, *arguments, **variables: str) -> Side:
    return Side(name, [sys.executable, HERE / script, *arguments], **variables)


def rust_side(name: str, *arguments) -> Side:
    return Side(name, [PROGRAM, *arguments])


@dataclass
class Timings:
    """Times of a side, run by run."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    answers: list[dict] = field(default_factory=list)

    def add(self, answer: dict) -> None:
        self.answers.append(answer)
        self.seconds.append(answer["seconds"])
        # Of a part of a command, only the seconds are known.
        if "cpu_seconds" in answer:
            self.cpu_seconds.append(answer["cpu_seconds"])

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float | None:
        return statistics.median(self.cpu_seconds) if self.cpu_seconds else None

    def summary(self) -> dict:
        return {
            "median": self.median,
            "min": min(self.seconds),
            "max": max(self.seconds),
            "cpu_median": self.cpu_median,
            "num_runs": len(self.seconds),
        }


def alternate(sides: list[Side], num_rounds: int, num_warm: int = 1, word: str = "step") -> dict[str, Timings]:
    """Runs the command `word` on each side in turn, round by round; the warm-up rounds are not counted."""
    return run_rounds({side.name: partial(side.ask, word) for side in sides}, num_rounds, num_warm)


def run_rounds(turns: Mapping[str, Callable[[], dict]], num_rounds: int, num_warm: int = 1) -> dict[str, Timings]:
    """Takes each turn once in every round; the warm-up rounds are not counted."""
    timings = {name: Timings() for name in turns}
    for number in range(num_warm + num_rounds):
        for name, turn in turns.items():
            answer = turn()
            if number >= num_warm:
                timings[name].add(answer)
    return timings


def ratio(slow: Timings, fast: Timings) -> dict:
    """Ratio of the medians, and smallest and largest ratio of the runs of one round."""
    rounds = [a / b for a, b in zip(slow.seconds, fast.seconds)]
    cpu_median = slow.cpu_median / fast.cpu_median if slow.cpu_median and fast.cpu_median else None
    return {"median": slow.median / fast.median, "min": min(rounds), "max": max(rounds), "cpu_median": cpu_median}
