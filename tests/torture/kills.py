"""Kills training runs: at random moments, and inside saves, evaluations, the reference pass, the caches' writing and
the final export. Whatever a kill hits, the run that is resumed must equal one that never stopped."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import folders
import phases
import verdict
from material import DIMENSIONS, STORIES, Material, adapter_keys, lines, run_config
from phases import MOMENT, Places, Rhythm
from program import Limits, Outcome, Program, Running
from table import Finding, Table, say
from watch import Watch

PART = "kills"
MAX_STEPS, SAVE_STEPS, EVAL_STEPS = 8, 3, 4
# A resumed run is killed again, now and then.
MOST_KILLS = 3
# A run of a second or two, on a busy machine.
PATIENCE = Limits(cpu_seconds=60.0, memory_bytes=4 << 30, seconds=300.0)
# A second signal ends the process at once; the machine may be busy.
AT_ONCE_SECONDS = 5.0


@dataclass(frozen=True)
class Flavour:
    """A kind of run."""

    name: str
    stage: str
    adapter: str = ""
    model: str = "wide"
    result: str = "model"

    @property
    def has_reference(self) -> bool:
        return self.stage != "sft"


def flavours(material: Material) -> list[Flavour]:
    """The kinds of runs; the model of stories only where it is."""
    lora = adapter_keys("lora", 8, dropout=0.1)
    found = [
        Flavour("sft, full", "sft"),
        Flavour("dpo, full", "dpo"),
        Flavour("λ-DPO, full", "lambda_dpo"),
        Flavour("λ-DPO, LoRA", "lambda_dpo", lora, result="adapter"),
        Flavour("λ-DPO, λ-adapter", "lambda_dpo", adapter_keys("lambda_lora", 4, dropout=0.1), result="adapter"),
    ]
    if STORIES.is_dir():
        found.append(Flavour("sft, full, stories260k", "sft", model=str(STORIES)))
        found.append(Flavour("λ-DPO, LoRA, stories260k", "lambda_dpo", lora, str(STORIES), "adapter"))
    return found


class Victim:
    """A folder with a run to kill."""

    def __init__(self, folder: Path, flavour: Flavour, material: Material, program: Program) -> None:
        self.folder = folder
        self.flavour = flavour
        folder.mkdir(parents=True)
        self.program = program.in_folder(folder)
        self.places = Places(folder / "run", folder / "cache", folder / "logs/stderr.txt", flavour.has_reference)
        self.eval_rows = phases.eval_rows(MAX_STEPS, EVAL_STEPS)
        name = "sft.jsonl" if flavour.stage == "sft" else "records.jsonl"
        (folder / "records.jsonl").write_text(lines(name, 24))
        (folder / "eval.jsonl").write_text(lines(name, 12, start=100))
        model = flavour.model if Path(flavour.model).is_absolute() else str(material.folder / flavour.model)
        data = f'eval_records = ["eval.jsonl"]\ndimensions = {json.dumps(DIMENSIONS)}\n'
        train = (
            f"\n[train]\nmax_steps = {MAX_STEPS}\nsave_steps = {SAVE_STEPS}\neval_steps = {EVAL_STEPS}\n"
            "save_total_limit = 2\nper_device_train_batch_size = 4\nlearning_rate = 1e-2\n"
        )
        config = run_config(flavour.stage, model=model, records="records.jsonl", extra=data, cutoff_len=256)
        self.config = folder / "run.toml"
        self.config.write_text(config + flavour.adapter + train)
        self.places.folders()

    def arguments(self, resume: bool) -> list[str | Path]:
        return ["train", self.config, *(["train.resume=auto"] if resume else [])]

    def start(self, resume: bool) -> Running:
        self.places.log.write_text("")
        return self.program.start(self.arguments(resume), cwd=self.folder, log=self.places.log)

    def run(self, resume: bool) -> Outcome:
        return self.start(resume).wait(PATIENCE.seconds)

    def leftovers(self) -> list[str]:
        """What is hidden or temporary where a finished run has left it."""
        found = [*folders.leftovers(self.places.output_dir), *folders.leftovers(self.places.cache, folders.LASTING)]
        return found + [str(path) for path in (self.folder / "tmp").iterdir()]

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints."""
        return sorted(int(path.name.split("-")[1]) for path in self.places.output_dir.glob("checkpoint-*"))

    def last_logged_step(self) -> int:
        """The last step in `metrics.jsonl`."""
        rows = folders.metrics(phases.read(self.places.output_dir / "metrics.jsonl"))
        return max((int(row["step"]) for row in rows), default=0)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: what every other must equal, and what happens when."""

    files: dict[str, bytes]
    rhythm: Rhythm


def uninterrupted(victim: Victim) -> Whole:
    """Runs to the end, and measures when what happens."""
    with Watch(victim.places.folders()) as watch:
        running = victim.start(resume=False)
        spans = phases.measure(running, victim.places, watch, victim.eval_rows)
        outcome = running.wait(PATIENCE.seconds)
    if outcome.code != 0:
        raise SystemExit(f"{victim.program.line(victim.arguments(False))} failed:\n{outcome.stderr}")
    return Whole(folders.run_files(victim.places.output_dir), Rhythm(outcome.seconds, victim.eval_rows, spans))


class Loss(Exception):
    """A run that lost something, or left something behind."""


class Kills:
    """Kills runs of all flavours in turn, for as long as there is time."""

    def __init__(self, program: Program, material: Material, folder: Path, seed: str, table: Table) -> None:
        self.program = program
        self.material = material
        self.folder = folder
        self.seed = seed
        self.table = table
        self.hits: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.num_resumed = 0
        self._whole: dict[str, Whole] = {}
        self._said = 0.0

    def run(self, deadline: float, most: int) -> None:
        """Kills runs until `deadline`, `most` of them at the most."""
        kinds = flavours(self.material)
        if len(kinds) < 7:
            self.table.skip(PART, "runs of stories260k", f"{STORIES} is not there")
        random.Random(f"{self.seed}/{PART}").shuffle(kinds)
        number = 0
        while number < most and monotonic() < deadline:
            self.one(number, kinds[number % len(kinds)])
            number += 1
            if monotonic() - self._said > 20:
                self._said = monotonic()
                say(f"kills: {number} runs, {sum(self.hits.values())} signals")
        for phase, count in sorted(self.hits.items(), key=lambda hit: -hit[1]):
            self.table.count(PART, f"signals that hit {phase}", count)
        sent = ", ".join(f"{count} {name}" for name, count in sorted(self.signals.items()))
        self.table.note(PART, "training runs", f"{sent}; {self.num_resumed} starts that went on from a checkpoint")

    def whole(self, flavour: Flavour) -> Whole:
        """The uninterrupted run of a flavour."""
        if flavour.name not in self._whole:
            victim = Victim(self.folder / f"whole-{len(self._whole)}", flavour, self.material, self.program)
            self._whole[flavour.name] = uninterrupted(victim)
            shutil.rmtree(victim.folder)
        return self._whole[flavour.name]

    def one(self, number: int, flavour: Flavour) -> None:
        """Kills one run, perhaps several times, finishes it, and compares."""
        rng = random.Random(f"{self.seed}/{PART}/{number}")
        whole = self.whole(flavour)
        self.table.count(PART, "training runs")
        victim = Victim(self.folder / f"{number:05}", flavour, self.material, self.program)
        what = f"run {number}, {flavour.name}"
        story: list[str] = []
        try:
            self._kill(victim, whole, rng, story)
            self._finish(victim, whole)
        except Loss as loss:
            command = victim.program.line(victim.arguments(True))
            said = phases.read(victim.places.log)
            problem = f"{what}: {loss} (seed {self.seed}; {'; '.join(story)})"
            self.table.find(Finding(PART, "training runs", problem, victim.folder, command, said))
            return
        shutil.rmtree(victim.folder)

    def _kill(self, victim: Victim, whole: Whole, rng: random.Random, story: list[str]) -> None:
        num_kills = rng.choices(range(1, MOST_KILLS + 1), weights=[6, 3, 1])[0]
        resume = False
        for _ in range(num_kills):
            if not self._kill_once(victim, whole.rhythm, rng, resume, story):
                return
            resume = True

    def _kill_once(self, victim: Victim, rhythm: Rhythm, rng: random.Random, resume: bool, story: list[str]) -> bool:
        """Sends a signal, or two; False if the run ended before."""
        possible = rhythm.possible()
        aim = MOMENT if rng.random() < 0.5 else rng.choice(possible)
        kind = rng.choices(["SIGKILL", "SIGTERM", "SIGTERM twice"], weights=[7, 2, 1])[0]
        before = victim.last_logged_step(), max(victim.checkpoints(), default=0)
        with Watch(victim.places.folders()) as watch:
            running = victim.start(resume)
            if aim == MOMENT:
                sleep_until_or_end(running, rng.uniform(0, rhythm.seconds))
            else:
                count, span = rhythm.spans[aim]
                occurrence = 1 if resume else rng.randint(1, count)
                delay = rng.uniform(0, span)
                phases.wait_for(running, victim.places, watch, rhythm, aim, occurrence, delay)
            ended = running.has_ended()
            outcome = self._signal(running, kind, rng)
        said = phases.read(victim.places.log)
        if ended or outcome.code == 0:
            story.append(f"aimed at {aim}, but it had ended")
            self._check_outcome(outcome, kind)
            return False
        hit = phases.after_kill(victim.places, said, running.pid, victim.eval_rows)
        story.append(f"{kind} aimed at {aim} hit {hit}")
        self.hits[hit] += 1
        self.signals[kind] += 1
        self._check_outcome(outcome, kind)
        self._check_lost(victim, before, said, kind)
        return True

    def _signal(self, running: Running, kind: str, rng: random.Random) -> Outcome:
        if kind == "SIGKILL":
            return running.kill()
        running.signal(signal.SIGTERM)
        if kind == "SIGTERM":
            return running.wait(PATIENCE.seconds)
        sleep(rng.uniform(0, 0.02))
        running.signal(signal.SIGTERM)
        return running.wait(AT_ONCE_SECONDS)

    def _check_outcome(self, outcome: Outcome, kind: str) -> None:
        # Until the handlers are there, a signal ends the process as it ends any other.
        signals = {"SIGKILL": [-signal.SIGKILL], "SIGTERM": [143, -signal.SIGTERM]}
        if outcome.timed_out:
            raise Loss(f"it did not end after {kind}")
        if outcome.code != 0 and outcome.code not in signals[kind.removesuffix(" twice")]:
            raise Loss(f"it ended with {outcome.code} after {kind}: {outcome.last_line()}")

    def _check_lost(self, victim: Victim, before: tuple[int, int], said: str, kind: str) -> None:
        """At most the steps since the last checkpoint are lost: none after a signal that lets it save."""
        checkpoints = victim.checkpoints()
        last = max(checkpoints, default=0)
        if last < before[1]:
            raise Loss(f"checkpoint-{before[1]} was there before, and now the last is {last}")
        logged = victim.last_logged_step()
        if logged - last > SAVE_STEPS:
            raise Loss(f"step {logged} was logged, but the last checkpoint is of step {last}")
        stopped = re.search(r"stopped after step (\d+) ", said)
        if stopped and int(stopped[1]) != last:
            raise Loss(f"it said that it stopped after step {stopped[1]}, but the last checkpoint is of step {last}")

    def _finish(self, victim: Victim, whole: Whole) -> None:
        last = max(victim.checkpoints(), default=0)
        finished = any((victim.places.output_dir / name).exists() for name in phases.RESULTS)
        outcome = victim.run(resume=True)
        if problem := verdict.fault(outcome, PATIENCE):
            raise Loss(f"the run that was resumed {problem}")
        if outcome.code != 0:
            raise Loss(f"the run cannot be resumed: {outcome.last_line()}")
        resumed = re.search(r"resuming from .* after step (\d+)", outcome.stderr)
        self.num_resumed += resumed is not None
        start = int(resumed[1]) if resumed else 0
        if not finished and start != last:
            raise Loss(f"it went on after step {start}, though checkpoint-{last} is there")
        if left := victim.leftovers():
            raise Loss(f"it left {', '.join(left)}")
        if problem := same_run(whole.files, folders.run_files(victim.places.output_dir)):
            raise Loss(f"it differs from the uninterrupted run: {problem}")
        again = victim.run(resume=True)
        if again.code != 0 or "this run is finished" not in again.stderr:
            raise Loss(f"resumed once more, it does not say that it is finished: {again.last_line()}")
        if left := victim.leftovers():
            raise Loss(f"resumed once more, it left {', '.join(left)}")


def same_run(whole: dict[str, bytes], found: dict[str, bytes]) -> str | None:
    """What differs between two runs' folders. A signal adds a checkpoint, which may have taken an older one's place."""
    last = f"checkpoint-{MAX_STEPS // SAVE_STEPS * SAVE_STEPS}"
    if not any(path.startswith(f"{last}/") for path in found):
        return f"there is no {last}"

    def compared(files: dict[str, bytes], other: dict[str, bytes]) -> dict[str, bytes]:
        shared = {path.split("/")[0] for path in other}
        names = {path: path.split("/")[0] for path in files}
        return {
            path: content
            for path, content in files.items()
            if not names[path].startswith("checkpoint-") or names[path] in shared
        }

    return folders.difference(compared(whole, found), compared(found, whole), folders.of_run)


def sleep_until_or_end(running: Running, seconds: float) -> None:
    """Sleeps, but not beyond the end of the run."""
    until = monotonic() + seconds
    while monotonic() < until and not running.has_ended():
        sleep(min(0.01, max(0.0, until - monotonic())))
