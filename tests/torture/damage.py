"""Feeds the program damaged files: it must read on rightly or name the file in one sentence, in seconds and in little
memory."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import folders
import mutations
import verdict
from kinds import Kind, kinds
from material import PATIENCE, Material
from program import Limits, Outcome, Program
from table import Finding, Table, say

PART = "damage"
LIMITS = Limits()
# The same problem of the same kind of file is printed and kept this often; after that it is only counted.
KEPT = 3
NOBODY = 65534


@dataclass(frozen=True)
class Damage:
    """A file to damage, and how: in a random way, or by what takes its place."""

    kind: Kind
    label: str
    rng: random.Random
    place: mutations.Place | None = None


class Damages:
    """Damages every kind of file in every way, in as many processes at a time as there are cores to use."""

    def __init__(self, program: Program, material: Material, folder: Path, seed: str, table: Table, jobs: int) -> None:
        self.program = program
        self.folder = folder
        folder.mkdir(parents=True)
        self.seed = seed
        self.table = table
        self.jobs = jobs
        self.kinds = kinds(material)
        self._right: dict[str, bytes] = {}
        self._locks = {kind.name: threading.Lock() for kind in self.kinds}
        self._usable: dict[str, bool] = {}
        self._seen: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._num_workers = 0
        self._slowest, self._largest = ("", 0.0), ("", 0)

    def run(self, deadline: float, most: int) -> None:
        """Damages `most` files until `deadline`: half of the time for what can take a file's place, then at random."""
        half = monotonic() + (deadline - monotonic()) / 2
        places = self._places()
        random.Random(f"{self.seed}/{PART}/places").shuffle(places)
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda damage: self._one_in_time(damage, half), places))
            numbers = iter(range(most))
            list(pool.map(lambda _: self._random_until(numbers, deadline), range(self.jobs)))
        for kind in self.kinds:
            row = self.table.row(PART, kind.name)
            row.notes = f"{self._refused[kind.name]:,} refused"
        (slowest, seconds), (largest, num_bytes) = self._slowest, self._largest
        most_taken = f"at most {seconds:.1f} s of a core ({slowest}) and {num_bytes >> 20} MiB ({largest})"
        self.table.note(PART, "all kinds", most_taken)
        self.table.row(PART, "all kinds").tried = sum(self.table.row(PART, kind.name).tried for kind in self.kinds)

    def only(self, number: int) -> None:
        """Repeats one random damage of the seed."""
        self._one(self._random(number))

    def _random_until(self, numbers: Iterator[int], deadline: float) -> None:
        while monotonic() < deadline:
            with self._lock:
                number = next(numbers, None)
            if number is None:
                return
            if number % 500 == 499:
                say(f"damage: {number + 1} files")
            self._one(self._random(number))

    def _random(self, number: int) -> Damage:
        rng = random.Random(f"{self.seed}/{PART}/{number}")
        kind = rng.choices(self.kinds, weights=[kind.weight for kind in self.kinds])[0]
        return Damage(kind, f"number {number}", rng)

    def _places(self) -> list[Damage]:
        found = []
        for kind in self.kinds:
            for place in mutations.PLACES:
                waits = place in (mutations.fifo, mutations.endless)
                if not (kind.is_stream and waits):
                    label = (place.__doc__ or "").rstrip(".").lower()
                    found.append(Damage(kind, label, random.Random(0), place))
        return found

    def _is_usable(self, kind: Kind) -> bool:
        """Whether the command succeeds on whole files; keeps the result that damage must not change."""
        with self._locks[kind.name]:
            if kind.name not in self._usable:
                # Once more, so that one failure among many runs is found, and others can go on.
                self._usable[kind.name] = self._try_whole(kind) or self._try_whole(kind)
            return self._usable[kind.name]

    def _try_whole(self, kind: Kind) -> bool:
        folder = self._sandbox(kind)
        program = self._program(folder)
        outcome = program.run(kind.arguments, cwd=folder, limits=PATIENCE)
        if outcome.code == 0 and kind.result is not None:
            self._right[kind.name] = (folder / kind.result).read_bytes()
        if outcome.code != 0 or outcome.timed_out:
            problem = f"on whole files it ends with {outcome.code}: {outcome.last_line()}"
            self._report(kind, "undamaged", folder, program, problem, outcome)
        return outcome.code == 0

    def _one_in_time(self, damage: Damage, deadline: float) -> None:
        if monotonic() < deadline:
            self._one(damage)

    def _worker(self) -> int:
        if not hasattr(self._local, "number"):
            with self._lock:
                self._local.number = self._num_workers
                self._num_workers += 1
        number: int = self._local.number
        return number

    def _sandbox(self, kind: Kind) -> Path:
        folder = self.folder / f"worker-{self._worker()}"
        _remove(folder)
        folder.mkdir()
        kind.prepare(folder)
        return folder

    def _program(self, folder: Path) -> Program:
        # One thread each: the others do the same.
        return self.program.in_folder(folder, OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")

    def _one(self, damage: Damage) -> None:
        kind = damage.kind
        if not self._is_usable(kind):
            return
        folder = self._sandbox(kind)
        path = folder / kind.file
        program = self._program(folder)
        if damage.place is not None:
            how = damage.label
            damage.place(path)
            if damage.place is mutations.unreadable:
                if reason := self._give_away(folder):
                    self.table.skip(PART, "files that may not be read", reason)
                    return
                if os.geteuid() == 0:
                    program = program.within(*_AS_NOBODY)
        else:
            mutate = damage.rng.choice(kind.mutations)
            how = f"{damage.label}: {(mutate.__doc__ or '').rstrip('.').lower()}"
            path.write_bytes(mutate(path.read_bytes(), damage.rng))
        outcome = program.run(kind.arguments, cwd=folder, limits=LIMITS)
        self.table.count(PART, kind.name)
        self._measure(kind, outcome)
        problem = self._problem(kind, damage, folder, outcome)
        if problem is not None:
            self._report(kind, how, folder, program, problem, outcome)

    def _measure(self, kind: Kind, outcome: Outcome) -> None:
        with self._lock:
            self._refused[kind.name] += outcome.code == 1
            if outcome.cpu_seconds > self._slowest[1]:
                self._slowest = (kind.name, outcome.cpu_seconds)
            if outcome.peak_bytes > self._largest[1]:
                self._largest = (kind.name, outcome.peak_bytes)

    def _problem(self, kind: Kind, damage: Damage, folder: Path, outcome: Outcome) -> str | None:
        if kind.has_verdict and outcome.code == 1 and not outcome.stderr.strip():
            return verdict.fault(outcome, LIMITS)
        if problem := verdict.judge(outcome, kind.names, LIMITS):
            return problem
        if outcome.code == 1 and (folder / "out.jsonl").exists():
            return "it failed, but wrote out.jsonl"
        unlike_a_file = (mutations.fifo, mutations.folder, mutations.loop, mutations.unreadable)
        if damage.place in unlike_a_file and outcome.code == 0:
            return None if kind.result else f"it did not notice {damage.label}"
        if kind.result is not None:
            # A folder in the place of a cache's file cannot be replaced by a file; it must be named then.
            if outcome.code == 0 and (folder / kind.result).read_bytes() != self._right[kind.name]:
                return "its result is another than with a whole cache"
            if outcome.code == 1 and damage.place is None:
                return f"a damaged cache ended the run: {outcome.last_line()}"
        if left := list(folders.leftovers(folder / "run")) if outcome.code == 0 else []:
            return f"it left {', '.join(left)}"
        return None

    def _report(
        self, kind: Kind, how: str, folder: Path, program: Program, problem: str, outcome: Outcome
    ) -> None:
        # Once a panic is at a certain place, all at that place are one problem.
        at = re.search(r"panicked at ([^:\n]*:\d+)", outcome.stderr)
        signature = f"{kind.name}: {at[1] if at else re.sub(r'[0-9]+', 'N', problem)}"
        with self._lock:
            self._seen[signature] += 1
            number = self._seen[signature]
            kept = self.folder / f"finding-{sum(self._seen.values()):05}"
        if number > KEPT:
            self.table.row(PART, kind.name).findings.append(Finding(PART, kind.name, problem, folder, ""))
            return
        line = program.line(kind.arguments).replace(str(folder), str(kept))
        (folder / "reproduce.sh").write_text(f"cd {kept} && {line}\n")
        folder.rename(kept)
        self.table.find(Finding(PART, kind.name, f"{how}: {problem} (seed {self.seed})", kept, line, outcome.stderr))

    def _give_away(self, folder: Path) -> str | None:
        """Lets a user who may not read everything run there; returns why that is not possible."""
        if os.geteuid() != 0:
            return None
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        probe = [*_AS_NOBODY, str(self.program.binary), "schema", "record"]
        try:
            done = subprocess.run(probe, cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "root may read every file, and there is no setpriv"
        return None if done.returncode == 0 else f"no other user can run the program here ({done.stderr.strip()[:200]})"


_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def _remove(folder: Path) -> None:
    """Removes a folder, whatever the modes in it are."""
    if not folder.exists():
        return
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.is_dir() and not path.stat().st_mode & stat.S_IWUSR:
            path.chmod(0o700)
    shutil.rmtree(folder)
