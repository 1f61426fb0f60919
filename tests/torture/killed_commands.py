"""Kills the commands that write a file or folder once: what they write is whole or not there, and a second run cleans
up."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import folders
import verdict
from kills import Loss, sleep_until_or_end
from material import PATIENCE, Material, rater
from program import Program, Running
from table import Finding, Table, say
from watch import Watch

PART = "commands"


@dataclass(frozen=True)
class Command:
    """A command with what it writes, by its names in the folder `out`."""

    name: str
    arguments: list[str | Path]
    writes: tuple[str, ...]
    # A second run replaces what the first one wrote; if not, it refuses to.
    replaces: bool = True


def commands(material: Material, folder: Path) -> list[Command]:
    """All commands that write something, on the tiny model; paths are relative to `folder`, where they run."""
    model: list[str | Path] = ["--model", material.tiny]
    cpu: list[str | Path] = [*model, "--device", "cpu"]
    few, many = material.records("few.jsonl"), material.records("many.jsonl")
    adapter: list[str | Path] = ["--adapter", material.lambda_adapter]
    answers: list[str | Path] = ["--num-prompts", "2", "--max-new-tokens", "8"]
    rated: list[str | Path] = ["--rater", f"sh {rater(folder)}"]
    generate: list[str | Path] = ["generate", *cpu, "--prompts", material.records("prompts.jsonl")]

    def export(form: str, *more: str | Path) -> Command:
        return Command(f"export --to {form}", ["export", *model, *more, "--to", form, "out/model"], ("model",), False)

    return [
        Command("convert", ["convert", "--records", many, "--out", "out/samples.jsonl"], ("samples.jsonl",)),
        Command("score", ["score", *cpu, "--records", few, "--out", "out/scores.jsonl"], ("scores.jsonl",)),
        Command("generate", [*generate, "--max-new-tokens", "8", "--out", "out/a.jsonl"], ("a.jsonl",)),
        Command("evaluate", ["evaluate", *cpu, *adapter, "--records", few, *answers, *rated, "--out", "out/e"], ("e",)),
        Command("steer", ["steer", *cpu, *adapter, "--records", few, "--steps", "1", "--out", "out/steer"], ("steer",)),
        Command("report", ["report", material.run, "--out", "out/report"], ("report",)),
        Command(
            "schedule fit",
            ["schedule", "fit", "--scores", material.records("anchors.jsonl"), "--out", "out/table.toml"],
            ("table.toml", "table.json"),
        ),
        export("hf"),
        export("peft", *adapter),
        export("loras", *adapter),
        export("onnx"),
        export("torchscript"),
    ]


class KilledCommands:
    """Kills all commands in turn, for as long as there is time."""

    def __init__(self, program: Program, material: Material, folder: Path, seed: str, table: Table) -> None:
        self.material = material
        self.folder = folder
        folder.mkdir(parents=True)
        self.program = program.in_folder(folder)
        self.seed = seed
        self.table = table
        self._whole: dict[str, tuple[dict[str, bytes], float]] = {}
        self.num_inside = 0

    def run(self, deadline: float, most: int) -> None:
        """Kills commands until `deadline`, `most` at the most."""
        number, said = 0, monotonic()
        all_commands = commands(self.material, self.folder)
        random.Random(f"{self.seed}/{PART}").shuffle(all_commands)
        while number < most and monotonic() < deadline:
            command = all_commands[number % len(all_commands)]
            try:
                self.one(command, random.Random(f"{self.seed}/{PART}/{number}"))
            except Loss as loss:
                line = self.program.line(command.arguments)
                kept = self.folder / f"{number:05}"
                (self.folder / "out").rename(kept)
                problem = f"kill {number}: {loss} (seed {self.seed})"
                self.table.find(Finding(PART, command.name, problem, kept, line))
            number += 1
            if monotonic() - said > 20:
                said = monotonic()
                say(f"commands: {number} kills")
        row = self.table.row(PART, "all together")
        row.tried, row.notes = number, f"{self.num_inside} of them killed while something was being written"

    def whole(self, command: Command) -> tuple[dict[str, bytes], float]:
        """What the command writes if it is not killed, as far as two runs agree on it, and how long it takes."""
        if command.name not in self._whole:
            found = []
            for _ in range(2):
                self._clear()
                outcome = self.program.run(command.arguments, cwd=self.folder, limits=PATIENCE)
                if outcome.code != 0:
                    raise SystemExit(f"{self.program.line(command.arguments)} failed:\n{outcome.stderr}")
                found.append((folders.files(self.folder / "out"), outcome.seconds))
            (one, seconds), (other, _) = found
            if one.keys() != other.keys():
                raise SystemExit(f"{command.name} does not write the same files twice")
            # A file that has times in it is compared by its name.
            same = {path: one[path] if one[path] == other[path] else b"" for path in one}
            self._whole[command.name] = (same, seconds)
        return self._whole[command.name]

    def _clear(self) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out").mkdir()

    def one(self, command: Command, rng: random.Random) -> None:
        """Kills the command once, looks at what is there, and runs it again."""
        whole, seconds = self.whole(command)
        self.table.count(PART, command.name)
        self._clear()
        old: dict[str, bytes] = {}
        if command.replaces and rng.random() < 0.5:
            old = self._older(command, whole, rng)
        with Watch([self.folder / "out"]) as watch:
            running = self.program.start(command.arguments, cwd=self.folder, log=self.folder / "stderr.txt")
            if rng.random() < 0.4:
                sleep_until_or_end(running, rng.uniform(0, seconds))
            else:
                self._until_written(running, watch, rng)
            running.kill()
        self.num_inside += any(".partial" in path.name for path in (self.folder / "out").iterdir())
        self._check_whole(command, whole, old)
        outcome = self.program.run(command.arguments, cwd=self.folder, limits=PATIENCE)
        if problem := verdict.fault(outcome, PATIENCE):
            raise Loss(f"run again, it {problem}")
        is_there = not command.replaces and outcome.code == 1 and "exists" in outcome.stderr
        if outcome.code != 0 and not is_there:
            raise Loss(f"run again, it fails: {outcome.last_line()}")
        if left := list(folders.leftovers(self.folder / "out")):
            raise Loss(f"run again, it leaves {', '.join(left)}")
        if problem := self._difference(whole, folders.files(self.folder / "out")):
            raise Loss(f"run again, it writes something else: {problem}")
        if left := [str(path) for path in (self.folder / "tmp").iterdir()]:
            raise Loss(f"it leaves {', '.join(left)}")

    def _until_written(self, running: Running, watch: Watch, rng: random.Random) -> None:
        """Waits until a file is being written, and then for a moment: most are written in a few milliseconds."""
        while not running.has_ended():
            events = watch.wait(60.0, also=running.pidfd)
            if any(event.name.endswith(".partial") for event in events):
                sleep(rng.choice([0.0, rng.uniform(0, 0.005), rng.uniform(0, 0.05)]))
                return

    def _older(self, command: Command, whole: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
        """Puts something older in place of the output, which the command replaces."""
        marked = rng.choice(sorted(whole))
        for path, content in whole.items():
            place = self.folder / "out" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content + b"\n" if path == marked else content)
        return folders.files(self.folder / "out")

    def _check_whole(self, command: Command, whole: dict[str, bytes], old: dict[str, bytes]) -> None:
        """Each thing that the command writes must be there whole, old or new, or not at all. What it has measured may be
        kept until the next run, after which there must be nothing else."""
        found = {
            path: content
            for path, content in folders.files(self.folder / "out").items()
            if not path.split("/")[0].startswith(".") and not path.endswith(folders.INTERIM)
        }
        for name in command.writes:
            own = {path: content for path, content in found.items() if path.split("/")[0] == name}
            new = {path: content for path, content in whole.items() if path.split("/")[0] == name}
            before = {path: content for path, content in old.items() if path.split("/")[0] == name}
            if not own and not before:
                continue
            if own != before and self._difference(new, own) is not None:
                raise Loss(f"out/{name} is neither whole nor absent: {self._difference(new, own)}")
        if others := [path for path in found if path.split("/")[0] not in command.writes]:
            raise Loss(f"it leaves {', '.join(others)}")

    @staticmethod
    def _difference(whole: dict[str, bytes], found: dict[str, bytes]) -> str | None:
        return folders.difference(whole, found, lambda path, content: content if whole.get(path) else b"")
