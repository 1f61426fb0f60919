"""Starves the disk: every call that changes a file fails in turn, a file system fills up, folders are read-only,
missing or elsewhere. A run must say so in one sentence, keep its last checkpoint, and go on from there once there is
room."""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import folders
import verdict
from kills import Flavour, Loss, Victim, same_run
from material import PATIENCE, Material, rater
from preload import compile_library
from program import MIB, Outcome, Program
from table import Finding, Table, say

PART = "disk"
HERE = Path(__file__).resolve().parent
TINY = Flavour("λ-DPO, full, tiny", "lambda_dpo", model="tiny")
# Holds everything that the run writes, and little more.
TMPFS_BYTES = 8 * MIB


def namespace() -> list[str]:
    """The words that give a command a file system view of its own."""
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


@dataclass(frozen=True)
class Fault:
    """How calls fail."""

    name: str
    number: int
    stays: bool


FAULTS = [
    Fault("every call in turn fails: input/output error", errno.EIO, stays=False),
    Fault("every call in turn finds the disk full", errno.ENOSPC, stays=True),
]


class Disk:
    """Everything about disks, for as long as there is time."""

    def __init__(self, program: Program, material: Material, folder: Path, seed: str, table: Table) -> None:
        self.program = program
        self.material = material
        self.folder = folder
        folder.mkdir(parents=True)
        self.seed = seed
        self.table = table
        self._number = 0
        self._said = monotonic()
        self._whole: dict[str, bytes] | None = None

    def run(self, deadline: float, most: int) -> None:
        """Tries all of it; of the calls that fail in turn as many as there is time for, in a random order."""
        self._places()
        start = monotonic()
        self._tight(most, start + (deadline - start) * 0.3)
        self._calls(deadline, most)

    def victim(self) -> Victim:
        """A new folder with a run of the tiny model."""
        self._number += 1
        return Victim(self.folder / f"{self._number:05}", TINY, self.material, self.program)

    def whole(self) -> dict[str, bytes]:
        """What the run writes if nothing goes wrong."""
        if self._whole is None:
            victim = self.victim()
            outcome = victim.run(resume=False)
            if outcome.code != 0:
                raise SystemExit(f"{victim.program.line(victim.arguments(False))} failed:\n{outcome.stderr}")
            self._whole = folders.run_files(victim.places.output_dir)
            shutil.rmtree(victim.folder)
        return self._whole

    def _progress(self, text: str) -> None:
        if monotonic() - self._said > 20:
            self._said = monotonic()
            say(f"disk: {text}")

    def _judge(self, outcome: Outcome, names: list[str]) -> None:
        if problem := verdict.judge(outcome, names, PATIENCE):
            raise Loss(problem)

    def _goes_on(self, victim: Victim) -> None:
        """The run can be resumed, and then equals one that nothing happened to."""
        outcome = victim.run(resume=True)
        if outcome.code != 0:
            raise Loss(f"it cannot be resumed: {outcome.last_line()}")
        if left := victim.leftovers():
            raise Loss(f"resumed, it left {', '.join(left)}")
        if problem := same_run(self.whole(), folders.run_files(victim.places.output_dir)):
            raise Loss(f"resumed, it differs from a run that nothing happened to: {problem}")

    def _report(self, what: str, folder: Path, command: str, problem: str, said: str) -> None:
        self.table.find(Finding(PART, what, f"{problem} (seed {self.seed})", folder, command, said))

    # Folders that are read-only, missing or elsewhere.

    def _places(self) -> None:
        for what, attempt in (
            ("the cache folder is read-only", self._readonly_cache),
            ("the cache folder is on another file system", self._cache_elsewhere),
            ("TMPDIR is missing, the run does not need it", self._no_tmpdir),
            ("TMPDIR is missing, records come through a pipe", self._no_tmpdir_for_a_pipe),
        ):
            victim = self.victim()
            try:
                if reason := attempt(victim):
                    self.table.skip(PART, what, reason)
                else:
                    self.table.count(PART, what)
            except Loss as loss:
                said = victim.places.log.read_text(errors="replace")
                self._report(what, victim.folder, victim.program.line(victim.arguments(False)), str(loss), said)
                continue
            shutil.rmtree(victim.folder, ignore_errors=True)

    def _readonly_cache(self, victim: Victim) -> str | None:
        cache = victim.places.cache
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        words = [*namespace(), "sh", "-c", script, str(cache)]
        try:
            probe = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "there is no unshare"
        if probe.returncode != 0:
            return f"the cache cannot be mounted read-only here ({probe.stderr.strip()})"
        own = victim.program.within(*words)
        outcome = own.run(victim.arguments(False), cwd=victim.folder, log=victim.places.log, limits=PATIENCE)
        self._judge(outcome, [str(cache)])
        if outcome.code != 1:
            raise Loss("it did not notice")
        self._goes_on(victim)
        return None

    def _cache_elsewhere(self, victim: Victim) -> str | None:
        memory = Path("/dev/shm")
        if not memory.is_dir() or not os.access(memory, os.W_OK) or memory.stat().st_dev == self.folder.stat().st_dev:
            return "there is no other file system at /dev/shm"
        elsewhere = memory / f"lambda-dpo-torture-{os.getpid()}"
        try:
            victim.program = victim.program.with_environment(LAMBDA_DPO_CACHE=str(elsewhere))
            self._goes_on(victim)
            if left := list(folders.leftovers(elsewhere, folders.LASTING)):
                raise Loss(f"it left {', '.join(left)}")
        finally:
            shutil.rmtree(elsewhere, ignore_errors=True)
        return None

    def _no_tmpdir(self, victim: Victim) -> str | None:
        victim.program = victim.program.with_environment(TMPDIR=str(victim.folder / "none"))
        self._goes_on(victim)
        return None

    def _no_tmpdir_for_a_pipe(self, victim: Victim) -> str | None:
        program = victim.program.with_environment(TMPDIR=str(victim.folder / "none"))
        pipe = victim.folder / "pipe"
        os.mkfifo(pipe)
        # Opened for both, it waits for nobody.
        keep = os.open(pipe, os.O_RDWR)
        try:
            os.write(keep, b"{}\n")
            arguments: list[str | Path] = ["convert", "--records", pipe, "--out", victim.folder / "out.jsonl"]
            outcome = program.run(arguments, cwd=victim.folder, log=victim.places.log)
        finally:
            os.close(keep)
        self._judge(outcome, ["TMPDIR"])
        if outcome.code != 1:
            raise Loss("it did not notice")
        return None

    # Every call that changes a file.

    def _calls(self, deadline: float, most: int) -> None:
        library = compile_library(HERE / "fail_nth.c", self.folder)
        if isinstance(library, str):
            for fault in FAULTS:
                self.table.skip(PART, fault.name, library)
            return
        self._single = single_commands(self.material, self.folder)
        rng = random.Random(f"{self.seed}/{PART}")
        calls: dict[tuple[Fault, str], list[int]] = {}
        totals: dict[str, int] = {}
        # Of each of these in turn, a call that has not been chosen before, until all have been.
        pairs = [(fault, name) for name in ("train", *self._single) for fault in FAULTS]
        done = 0
        while pairs and done < most and monotonic() < deadline:
            fault, name = pair = pairs[done % len(pairs)]
            if name not in totals:
                totals[name] = self._count(library, None if name == "train" else name)
            left = calls.setdefault(pair, rng.sample(range(1, totals[name] + 1), totals[name]))
            if not left:
                pairs.remove(pair)
                continue
            done += 1
            self.table.count(PART, fault.name)
            self._progress(f"{done} failing calls")
            if name == "train":
                self._train_failing(library, fault, left.pop())
            else:
                self._command_failing(library, fault, name, left.pop())
        counted = ", ".join(f"{name} {total}" for name, total in totals.items())
        for fault in FAULTS:
            self.table.row(PART, fault.name).notes = f"calls: {counted}"

    def _preloaded(self, program: Program, library: Path, folder: Path, fault: Fault | None, at: int) -> Program:
        return program.with_environment(
            LD_PRELOAD=str(library),
            FAIL_UNDER=str(folder),
            FAIL_AT=str(at),
            FAIL_STAYS="1" if fault and fault.stays else "0",
            FAIL_ERRNO=str(fault.number if fault else 0),
            FAIL_LOG=str(folder.parent / "fail_nth.log"),
        )

    def _count(self, library: Path, command: str | None) -> int:
        """How many calls there are that can fail."""
        log = self.folder / "fail_nth.log"
        log.unlink(missing_ok=True)
        if command is None:
            victim = self.victim()
            own = self._preloaded(victim.program, library, victim.folder, None, 0)
            outcome = own.run(victim.arguments(False), cwd=victim.folder, log=victim.places.log, limits=PATIENCE)
            shutil.rmtree(victim.folder)
        else:
            folder = self._command_folder(command)
            own = self._preloaded(self.program.in_folder(folder), library, folder, None, 0)
            outcome = own.run(self._single[command], cwd=folder, limits=PATIENCE)
            shutil.rmtree(folder)
        if outcome.code != 0:
            raise SystemExit(f"{command or 'train'} fails with fail_nth.so preloaded: {outcome.stderr}")
        # A rater is a process of its own, which counts as well.
        return max(int(number) for number in re.findall(r"count (\d+)", log.read_text()))

    def _train_failing(self, library: Path, fault: Fault, at: int) -> None:
        victim = self.victim()
        own = self._preloaded(victim.program, library, victim.folder, fault, at)
        log = victim.folder.parent / "fail_nth.log"
        log.unlink(missing_ok=True)
        outcome = own.run(victim.arguments(False), cwd=victim.folder, log=victim.places.log, limits=PATIENCE)
        before = victim.checkpoints()
        try:
            self._judge(outcome, [str(victim.folder)])
            if outcome.code == 0 and fault.stays:
                raise Loss("it went on as if nothing had happened, though the disk is full")
            self._goes_on(victim)
            if before and not victim.checkpoints():
                raise Loss(f"checkpoint-{before[-1]} is gone")
        except Loss as loss:
            failed = log.read_text() if log.exists() else ""
            command = own.line(victim.arguments(False))
            problem = f"call {at} of train ({failed.strip().splitlines()[:1]}): {loss}"
            self._report(fault.name, victim.folder, command, problem, outcome.stderr)
            return
        shutil.rmtree(victim.folder)

    def _command_folder(self, name: str) -> Path:
        self._number += 1
        folder = self.folder / f"{self._number:05}"
        (folder / "out").mkdir(parents=True)
        return folder

    def _command_failing(self, library: Path, fault: Fault, name: str, at: int) -> None:
        folder = self._command_folder(name)
        arguments = self._single[name]
        own = self._preloaded(self.program.in_folder(folder), library, folder, fault, at)
        outcome = own.run(arguments, cwd=folder, limits=PATIENCE)
        try:
            self._judge(outcome, [str(folder), "out/"])
            left = sorted(path.name for path in (folder / "out").iterdir() if outcome.code == 1)
            is_there = "all of it is there" in outcome.stderr
            visible = [name for name in left if not name.startswith(".") and not name.endswith(folders.INTERIM)]
            if visible and not is_there:
                raise Loss(f"it failed, but left {', '.join(visible)}")
            if is_there and not visible:
                raise Loss("it says that all of it is there, but there is nothing")
            again = self.program.in_folder(folder).run(arguments, cwd=folder, limits=PATIENCE)
            if again.code != 0 and not ((outcome.code == 0 or is_there) and "exists" in again.stderr):
                raise Loss(f"run again, it fails: {again.last_line()}")
            if left := list(folders.leftovers(folder / "out")):
                raise Loss(f"run again, it leaves {', '.join(left)}")
        except Loss as loss:
            problem = f"call {at} of {name}: {loss}"
            self._report(fault.name, folder, own.line(arguments), problem, outcome.stderr)
            return
        shutil.rmtree(folder)

    # A file system that is full after so many bytes.

    def _tight(self, most: int, deadline: float) -> None:
        what = f"a file system of {TMPFS_BYTES // MIB} MiB fills up"
        rng = random.Random(f"{self.seed}/{PART}/tight")
        victim = self.victim()
        mounted = victim.folder / "mounted"
        mounted.mkdir()
        own = victim.program.with_environment(LAMBDA_DPO_CACHE=str(mounted / "cache"))
        output_dir = f"output_dir={mounted / 'run'}"
        train = own.command([*victim.arguments(False), output_dir])
        resume = own.command([*victim.arguments(True), output_dir])
        need = sum(len(content) for content in self.whole().values())
        free = sorted({rng.randrange(0, int(need * 2), 4096) for _ in range(most)})
        request: dict[str, Any] = {
            "folder": str(mounted),
            "size": TMPFS_BYTES,
            "environment": own.variables(),
            "seconds": PATIENCE.seconds,
            "steps": [{"free": size, "commands": [train, resume]} for size in rng.sample(free, len(free))],
        }
        words = [*namespace(), sys.executable, str(HERE / "tight_disk.py")]
        try:
            child = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except FileNotFoundError:
            self.table.skip(PART, what, "there is no unshare")
            return
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        child.stdin.write(json.dumps(request))
        child.stdin.close()
        try:
            answer = child.stdout.readline()
            first = json.loads(answer) if answer else {"mounted": False, "problem": child.stderr.read().strip()}
            if not first["mounted"]:
                self.table.skip(PART, what, f"no file system can be mounted here ({first['problem']})")
                return
            num_full = 0
            for step, line in zip(request["steps"], child.stdout, strict=False):
                self.table.count(PART, what)
                num_full += self._tight_step(what, victim, mounted, step, json.loads(line))
                self._progress(f"{self.table.row(PART, what).tried} of {len(free)} full file systems")
                if monotonic() > deadline:
                    break
            self.table.note(PART, what, f"at {num_full} of these sizes there was too little room")
        finally:
            child.kill()
            child.wait()
        shutil.rmtree(victim.folder, ignore_errors=True)

    def _tight_step(
        self, what: str, victim: Victim, mounted: Path, step: dict[str, Any], result: dict[str, Any]
    ) -> bool:
        """Looks at what the run did with so little room, and then with enough; True if there was too little."""
        (code, said), (last_code, last_said) = result["outcomes"]
        outcome = Outcome(int(str(code)), str(said), 0.0, 0.0, 0)
        try:
            self._judge(outcome, [str(mounted)])
            if last_code != 0:
                raise Loss(f"with room again, it fails: {str(last_said).strip().splitlines()[-1:]}")
            found = {path: base64.b64decode(content) for path, content in result["files"].items()}
            own = str(mounted).encode()
            # The folder of the records is another than that of the run.
            folder = str(victim.folder).encode()
            plain = {
                path.removeprefix("run/"): folders.relative(path, folders.relative(path, content, own), folder)
                for path, content in found.items()
                if path.startswith("run/") and not path.startswith("run/tensorboard/")
            }
            if hidden := [path for path in found if "/." in f"/{path}" and not path.endswith("/.lock")]:
                raise Loss(f"with room again, it left {', '.join(hidden)}")
            if problem := same_run(self.whole(), plain):
                raise Loss(f"with room again, it differs from a run that had room: {problem}")
        except Loss as loss:
            problem = f"{step['free']} bytes free: {loss}"
            commands = step["commands"]
            assert isinstance(commands, list)
            self._report(what, victim.folder, " ".join(commands[0]), problem, outcome.stderr)
        return outcome.code != 0


def single_commands(material: Material, folder: Path) -> dict[str, list[str | Path]]:
    """Commands that write once, to `out/` of the folder where they run."""
    model: list[str | Path] = ["--model", material.tiny]
    few = material.records("few.jsonl")
    evaluate: list[str | Path] = ["evaluate", *model, "--device", "cpu", "--adapter", material.lora, "--records", few]
    answers: list[str | Path] = ["--num-prompts", "1", "--max-new-tokens", "2", "--rater", f"sh {rater(folder)}"]
    return {
        "convert": ["convert", "--records", few, "--out", "out/samples.jsonl"],
        "export --to hf": ["export", *model, "--to", "hf", "out/model"],
        "export --to onnx": ["export", *model, "--to", "onnx", "out/model"],
        "export --to torchscript": ["export", *model, "--to", "torchscript", "out/model"],
        "evaluate": [*evaluate, *answers, "--out", "out/evaluation"],
    }
