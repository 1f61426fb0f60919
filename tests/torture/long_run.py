"""Trains on the demo for as long as there is time, with a save and an evaluation every few steps: memory, open files,
threads and disk must not grow. A signal ends the run, and it is resumed once, since its files must be whole too."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, median
from time import monotonic, sleep

import flat
import folders
import phases
import verdict
from material import DEMO, lines
from program import MIB, Limits, Outcome, Program, Running
from table import Finding, Table, say

PART = "long"
SAVE_STEPS, EVAL_STEPS, SAVE_TOTAL_LIMIT = 5, 10, 2
# A step of training takes as long as three held-out records.
NUM_EVAL_RECORDS = 40
# Never reached.
NUM_EPOCHS = 1_000_000
EVERY_SECONDS = 1.0
# The shares by which memory, in an hour, and mappings and disk may seem to grow.
NEGLIGIBLE_MEMORY, NEGLIGIBLE_MAPPINGS, NEGLIGIBLE_DISK = 0.01, 0.02, 0.02
# What has a line for each step or sample.
LOGS = ("metrics.jsonl", "stderr.txt", "samples.tsv")
PATIENCE = Limits(cpu_seconds=1e9, memory_bytes=4 << 30, seconds=300.0)


@dataclass(frozen=True)
class Sample:
    """What the process has at one moment."""

    seconds: float
    anonymous_bytes: int  # Its own memory: what is mapped from files may come and go.
    peak_bytes: int  # The most since the sample before, with what is mapped from files.
    num_files: int
    num_threads: int
    num_mappings: int
    disk_bytes: int


class Meter:
    """Measures a process."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._process = Path("/proc") / str(running.pid)
        self._started = running.started
        self._folder = folder

    def sample(self) -> Sample:
        """Measures, and begins to look for the next peak.

        Raises OSError or KeyError if the process has ended.
        """
        seconds = monotonic() - self._started
        status = dict(re.findall(r"^(\w+):\s+(\d+)", (self._process / "status").read_text(), re.MULTILINE))
        # From here on, VmHWM is the peak since now.
        (self._process / "clear_refs").write_text("5")
        anonymous = (int(status["RssAnon"]) + int(status["VmSwap"])) << 10
        num_files = len(os.listdir(self._process / "fd"))
        num_mappings = (self._process / "maps").read_bytes().count(b"\n")
        peak = int(status["VmHWM"]) << 10
        num_threads, disk = int(status["Threads"]), disk_bytes(self._folder)
        return Sample(seconds, anonymous, peak, num_files, num_threads, num_mappings, disk)


def disk_bytes(folder: Path) -> int:
    """What a run has in its folder, but for logs."""
    num_bytes = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            path = Path(inner, name)
            if name not in LOGS and path.parent.name != "tensorboard":
                try:
                    num_bytes += path.stat().st_size
                except FileNotFoundError:
                    pass  # Removed meanwhile.
    return num_bytes


class LongRun:
    """One run, and what is measured of it."""

    def __init__(self, program: Program, folder: Path, seed: str, table: Table) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        # One thread, so that a machine with other work keeps its pace.
        self.program = program.in_folder(folder, OMP_NUM_THREADS="1")
        self.seed = seed
        self.table = table
        self.output_dir = folder / "run"
        (folder / "eval.jsonl").write_text(lines("eval.jsonl", NUM_EVAL_RECORDS))
        self.samples: list[Sample] = []

    def arguments(self, *more: str) -> list[str | Path]:
        """The demo's λ-DPO, without end. A schedule over so many steps would stay in its warm-up."""
        settings = {
            "model.path": str(DEMO / "sft-model"),
            "model.device": "cpu",
            "output_dir": str(self.output_dir),
            "data.eval_records": json.dumps([str(self.folder / "eval.jsonl")]),
            "train.num_train_epochs": NUM_EPOCHS,
            "train.warmup_ratio": 0,
            "train.save_steps": SAVE_STEPS,
            "train.eval_steps": EVAL_STEPS,
            "train.save_total_limit": SAVE_TOTAL_LIMIT,
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        return ["train", DEMO / "lambda_dpo.toml", *words, *more]

    def run(self, deadline: float) -> None:
        """Trains until `deadline`, and judges what was measured."""
        running = self.program.start(self.arguments(), cwd=self.folder, log=self.folder / "stderr.txt")
        self._measure(running, deadline)
        if running.has_ended():
            outcome = running.wait(0.0)
            self._find("training steps", f"it ended with {outcome.code} before its time: {outcome.last_line()}")
            return
        running.signal(signal.SIGTERM)
        self._ended("a signal at the end", running.wait(PATIENCE.seconds))
        num_steps = self._progress()
        self._disk()
        self._growth(min(flat.NUM_BLOCKS, int(num_steps * (1 - flat.WARM_UP)) // EVAL_STEPS))
        self._resume()

    def _growth(self, num_blocks: int) -> None:
        """Judges blocks that see an evaluation and saves each."""
        if num_blocks < flat.FEWEST_BLOCKS:
            reason = f"{num_blocks} evaluations after the warm-up are too few: it needs more minutes"
            self.table.skip(PART, "growth of memory, open files and threads", reason)
            return
        blocks = flat.blocks(self.samples, num_blocks)
        self._memory(blocks)
        counts: list[tuple[str, Callable[[Sample], int], float]] = [
            ("open files", lambda sample: sample.num_files, 0.0),
            ("threads", lambda sample: sample.num_threads, 0.0),
            ("mappings of memory", lambda sample: sample.num_mappings, NEGLIGIBLE_MAPPINGS),
        ]
        for what, count, tolerance in counts:
            self._counted(what, [[count(sample) for sample in block] for block in blocks], tolerance)
        on_disk = [[sample.disk_bytes for sample in block] for block in blocks]
        if growth := flat.count_grows(on_disk, NEGLIGIBLE_DISK):
            self._find("bytes on disk", f"they grow {growth}")

    def _measure(self, running: Running, deadline: float) -> None:
        meter = Meter(running, self.folder)
        said_at = next_at = monotonic()
        samples = self.folder / "samples.tsv"
        samples.write_text("\t".join(field.name for field in fields(Sample)) + "\n")
        while monotonic() < deadline and not running.has_ended():
            try:
                self.samples.append(meter.sample())
            except (OSError, KeyError):
                return
            with samples.open("a") as file:
                file.write("\t".join(str(value) for value in astuple(self.samples[-1])) + "\n")
            if monotonic() >= said_at:
                said_at += 300.0
                say(f"long: {self._text(self.samples[-1:])}")
            next_at += EVERY_SECONDS
            sleep(max(0.0, min(next_at, deadline) - monotonic()))

    def _text(self, samples: Sequence[Sample]) -> str:
        """A few samples in a line."""
        last = samples[-1]
        own = fmean(sample.anonymous_bytes for sample in samples) / MIB
        peak = max(sample.peak_bytes for sample in samples) / MIB
        most = [max(counts) for counts in zip(*((s.num_files, s.num_threads, s.num_mappings) for s in samples))]
        files, threads, mappings = most
        return (
            f"{last.seconds / 60:6.1f} minutes, {own:.1f} MiB of its own, {peak:.1f} MiB at the peak, "
            f"{files} open files, {threads} threads, {mappings} mappings"
        )

    # What was found.

    def _find(self, what: str, problem: str) -> None:
        command = self.program.line(self.arguments())
        said = phases.read(self.folder / "stderr.txt")
        problem = f"{problem} (seed {self.seed})"
        self.table.find(Finding(PART, what, problem, self.folder, command, said))

    def _checkpoints(self) -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in self.output_dir.glob("checkpoint-*"))

    def _ended(self, what: str, outcome: Outcome) -> None:
        """A run that got a signal has ended, and everything is whole."""
        self.table.count(PART, what)
        # An outcome has only the beginning of what a run said.
        last_line = phases.read(self.folder / "stderr.txt").rstrip("\n").rpartition("\n")[2]
        stopped = re.search(r"^stopped after step (\d+) of", last_line)
        left = list(folders.leftovers(self.output_dir))
        left += [str(path) for path in (self.folder / "tmp").iterdir()]
        checkpoints = self._checkpoints()
        if problem := verdict.fault(Outcome(0, outcome.stderr, 0.0, 0.0, 0, outcome.timed_out), PATIENCE):
            self._find(what, f"it {problem}")
        elif outcome.code != 128 + signal.SIGTERM or not stopped:
            self._find(what, f"it ended with {outcome.code}: {last_line}")
        elif left:
            self._find(what, f"it left {', '.join(left)}")
        elif len(checkpoints) != SAVE_TOTAL_LIMIT or checkpoints[-1] != int(stopped[1]):
            self._find(what, f"it stopped after step {stopped[1]}, but has checkpoints {checkpoints}")

    def _progress(self) -> int:
        """Every step and evaluation has its line; returns the number of steps."""
        rows = folders.metrics(phases.read(self.output_dir / "metrics.jsonl"))
        steps = [int(row["step"]) for row in rows if "loss" in row]
        evaluations = [int(row["step"]) for row in rows if "eval_loss" in row]
        self.table.count(PART, "training steps", len(steps))
        minutes = self.samples[-1].seconds / 60 if self.samples else 0.0
        notes = f"{len(evaluations):,} evaluations, {len(steps) // SAVE_STEPS:,} saves, {minutes:.0f} minutes"
        self.table.note(PART, "training steps", notes)
        last = max(steps, default=0)
        if not last or steps != list(range(1, last + 1)):
            self._find("training steps", f"metrics.jsonl has {len(steps)} lines of steps up to {last}")
        elif evaluations != list(range(0, last + 1, EVAL_STEPS)):
            self._find("training steps", f"metrics.jsonl has {len(evaluations)} evaluations up to step {last}")
        return len(steps)

    def _disk(self) -> None:
        """No more checkpoints than there may be."""
        what = "bytes on disk"
        self.table.count(PART, what, len(self.samples))
        saved = [sum(len(content) for content in folders.files(path).values()) for path in self._folders()]
        rest = disk_bytes(self.folder) - sum(saved)
        # One more while it is written.
        most = rest + (SAVE_TOTAL_LIMIT + 1) * max(saved, default=0)
        found = max((sample.disk_bytes for sample in self.samples), default=0)
        logs = len(phases.read(self.output_dir / "metrics.jsonl"))
        self.table.note(PART, what, f"at most {found / MIB:.1f} MiB, and {logs / MIB:.1f} MiB of metrics.jsonl")
        if found > most * (1 + NEGLIGIBLE_DISK):
            self._find(what, f"{found:,}, though {SAVE_TOTAL_LIMIT} checkpoints take {sum(saved):,}")

    def _folders(self) -> list[Path]:
        return [self.output_dir / f"checkpoint-{step}" for step in self._checkpoints()]

    def _memory(self, blocks: list[Sequence[Sample]]) -> None:
        hours = (blocks[-1][-1].seconds - blocks[0][0].seconds) / 3600
        for block in blocks:
            say(f"long: {self._text(block)}")
        series = {
            # Phases differ by tens of MiB: a mean sees them all, where a median would choose one.
            "memory of its own": [fmean(sample.anonymous_bytes for sample in block) for block in blocks],
            "memory at the peak": [float(max(sample.peak_bytes for sample in block)) for block in blocks],
        }
        for what, values in series.items():
            self.table.count(PART, what, len(self.samples))
            slope = flat.trend(values, hours)
            notes = (
                f"{median(values) / MIB:.1f} MiB; {slope.slope / MIB:+.2f} MiB an hour "
                f"(99 %: {slope.low / MIB:+.2f} to {slope.high / MIB:+.2f})"
            )
            self.table.note(PART, what, notes)
            if growth := flat.grows(values, hours, NEGLIGIBLE_MEMORY):
                self._find(what, f"it grows {growth}")

    def _counted(self, what: str, counts: list[list[int]], tolerance: float) -> None:
        self.table.count(PART, what, len(self.samples))
        least, most = min(map(min, counts)), max(map(max, counts))
        self.table.note(PART, what, f"{least}" if least == most else f"{least} to {most}")
        if growth := flat.count_grows(counts, tolerance):
            self._find(what, f"they grow {growth}")

    def _resume(self) -> None:
        """It goes on from where it was stopped."""
        what = "resumed, and a signal again"
        last = max(self._checkpoints(), default=0)
        arguments = self.arguments("train.resume=auto")
        running = self.program.start(arguments, cwd=self.folder, log=self.folder / "stderr.txt")
        until = monotonic() + PATIENCE.seconds
        while monotonic() < until and not running.has_ended() and max(self._checkpoints(), default=0) <= last:
            sleep(0.1)
        running.signal(signal.SIGTERM)
        outcome = running.wait(PATIENCE.seconds)
        self._ended(what, outcome)
        if f" after step {last}\n" not in outcome.stderr:
            self._find(what, f"it does not say that it goes on after step {last}: {outcome.stderr[:200]}")
