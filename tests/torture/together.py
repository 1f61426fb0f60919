"""Runs processes beside each other: on one cache, one output folder, one hub cache, and with a cache that goes away."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import folders
import hub_server
import phases
import verdict
from kills import Flavour, Loss, Victim, same_run, sleep_until_or_end
from material import PATIENCE, Material
from program import Outcome, Program, Running
from table import Finding, Table, say
from watch import Watch

PART = "together"
SUBJECT = Flavour("λ-DPO, LoRA", "lambda_dpo", '\n[adapter]\nrank = 2\n', model="tiny", result="adapter")


class Together:
    """All of it in turn, for as long as there is time."""

    def __init__(self, program: Program, material: Material, folder: Path, seed: str, table: Table) -> None:
        self.program = program
        self.material = material
        self.folder = folder
        folder.mkdir(parents=True)
        self.seed = seed
        self.table = table
        self._number = 0
        self._whole: dict[str, bytes] = {}
        self._seconds = 0.0

    def run(self, deadline: float, most: int) -> None:
        """Repeats everything until `deadline`, `most` times at the most."""
        first = self._victim("cache")
        outcome = first.run(resume=False)
        if outcome.code != 0:
            raise SystemExit(f"{first.program.line(first.arguments(False))} failed:\n{outcome.stderr}")
        self._whole, self._seconds = folders.run_files(first.places.output_dir), outcome.seconds
        tries: list[tuple[str, Callable[[random.Random], None]]] = [
            ("two runs fill one cache", self._one_cache),
            ("two runs fill one cache, one of them is killed", self._one_cache_and_a_kill),
            ("two runs in one output folder", self._one_output_folder),
            ("the cache is deleted while a run reads it", self._cache_deleted),
            ("a file of the cache is cut while a run reads it", self._cache_cut),
            ("two processes fetch a model into one hub cache", self._one_hub_cache),
            ("a download is killed and begun again", self._killed_download),
        ]
        random.Random(f"{self.seed}/{PART}").shuffle(tries)
        said = monotonic()
        for number in range(most):
            for what, attempt in tries:
                if monotonic() > deadline:
                    return
                rng = random.Random(f"{self.seed}/{PART}/{what}/{number}")
                self.table.count(PART, what)
                try:
                    attempt(rng)
                except Loss as loss:
                    # Folders are kept after a finding, and removed with the campaign's otherwise.
                    problem = f"try {number}: {loss} (seed {self.seed})"
                    self.table.find(Finding(PART, what, problem, self.folder, "as the folder's logs show"))
                if monotonic() - said > 20:
                    said = monotonic()
                    say(f"together: {number + 1} times")

    def _victim(self, cache: str) -> Victim:
        """A new run with a cache that it may share."""
        self._number += 1
        victim = Victim(self.folder / f"{self._number:05}", SUBJECT, self.material, self.program)
        shared = self.folder / cache
        victim.program = victim.program.with_environment(LAMBDA_DPO_CACHE=str(shared))
        victim.places = phases.Places(victim.places.output_dir, shared, victim.places.log, has_reference=True)
        victim.places.folders()
        return victim

    def _new_cache(self) -> str:
        return f"cache-{self._number:05}"

    def _equals(self, victim: Victim, outcome: Outcome) -> None:
        """The run succeeded, and is what it would have been alone."""
        if problem := verdict.fault(outcome, PATIENCE):
            raise Loss(f"{victim.folder.name} {problem}")
        if outcome.code != 0:
            raise Loss(f"{victim.folder.name} fails: {outcome.last_line()}")
        if problem := same_run(self._whole, folders.run_files(victim.places.output_dir)):
            raise Loss(f"{victim.folder.name} differs from a run alone: {problem}")
        if left := victim.leftovers():
            raise Loss(f"{victim.folder.name} left {', '.join(left)}")
        shutil.rmtree(victim.folder)

    def _one_cache(self, rng: random.Random) -> None:
        cache = self._new_cache()
        victims = [self._victim(cache) for _ in range(2)]
        running = []
        for victim in victims:
            running.append(victim.start(resume=False))
            sleep(rng.choice([0.0, rng.uniform(0, self._seconds / 2)]))
        # All have to end before it is said what any of them left.
        outcomes = [each.wait(PATIENCE.seconds) for each in running]
        for victim, outcome in zip(victims, outcomes, strict=True):
            self._equals(victim, outcome)
        self._whole_cache(self.folder / cache)

    def _one_cache_and_a_kill(self, rng: random.Random) -> None:
        cache = self._new_cache()
        killed, other = (self._victim(cache) for _ in range(2))
        first = killed.start(resume=False)
        with Watch([killed.places.samples, killed.places.reference]) as watch:
            second = other.start(resume=False)
            for _ in range(rng.randint(1, 4)):
                watch.wait(self._seconds, also=first.pidfd)
            sleep(rng.uniform(0, 0.005))
            first.kill()
        outcome = second.wait(PATIENCE.seconds)
        again = killed.run(resume=True)
        self._equals(other, outcome)
        self._equals(killed, again)
        self._whole_cache(self.folder / cache)

    def _whole_cache(self, cache: Path) -> None:
        names = sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")
        kinds = [name.split(".")[-1] for name in names]
        if kinds.count("samples") != 2 or kinds.count("log_probs") != 1 or len(names) != 3:
            raise Loss(f"the cache holds {', '.join(names)}")
        shutil.rmtree(cache)

    def _one_output_folder(self, rng: random.Random) -> None:
        victim = self._victim("cache")
        first = victim.start(resume=False)
        lock = victim.places.output_dir / ".lambda-dpo.lock"
        while not phases.read(lock) and not first.has_ended():
            sleep(0.001)
        sleep_until_or_end(first, rng.uniform(0, self._seconds / 3))
        second = victim.program.run(
            victim.arguments(True), cwd=victim.folder, log=victim.folder / "second.txt", limits=PATIENCE
        )
        ended = first.has_ended()
        outcome = first.wait(PATIENCE.seconds)
        if not ended and second.code != 0:
            if second.code != 1 or f"is in use by process {first.pid}" not in second.error():
                raise Loss(f"the second run does not name the first ({first.pid}): {second.last_line()}")
        elif not ended:
            raise Loss("the second run went on beside the first")
        self._equals(victim, outcome)

    def _cache_deleted(self, rng: random.Random) -> None:
        cache = self._new_cache()
        self._equals_of(self._victim(cache))
        victim = self._victim(cache)
        running = victim.start(resume=False)
        sleep_until_or_end(running, rng.uniform(0, self._seconds))
        for path in sorted((self.folder / cache).rglob("*")):
            if path.is_file() and rng.random() < 0.8:
                path.unlink(missing_ok=True)
        self._equals(victim, running.wait(PATIENCE.seconds))
        shutil.rmtree(self.folder / cache)

    def _equals_of(self, victim: Victim) -> None:
        self._equals(victim, victim.run(resume=False))

    def _cache_cut(self, rng: random.Random) -> None:
        cache = self._new_cache()
        self._equals_of(self._victim(cache))
        victim = self._victim(cache)
        running = victim.start(resume=False)
        sleep_until_or_end(running, rng.uniform(0, self._seconds))
        for path in sorted((self.folder / cache).rglob("*.samples")):
            with path.open("r+b") as file:
                file.truncate(rng.randrange(path.stat().st_size))
        outcome = running.wait(PATIENCE.seconds)
        if outcome.code == 1:
            if problem := verdict.judge(outcome, [".samples"], PATIENCE):
                raise Loss(problem)
            # With the damaged file reported and written anew, it goes on.
            outcome = victim.run(resume=True)
        self._equals(victim, outcome)
        shutil.rmtree(self.folder / cache)

    # A hub on this machine.

    def _score(self, hub: hub_server.Hub, place: Path, name: str) -> Running:
        program = self.program.in_folder(place, HF_HUB_OFFLINE="0", HF_ENDPOINT=hub.endpoint)
        one = self.material.records("one.jsonl")
        arguments: list[str | Path] = ["score", "--device", "cpu", "--model", hub_server.MODEL, "--records", one]
        return program.start([*arguments, "--out", f"{name}.jsonl"], cwd=place, log=place / f"{name}.txt")

    def _place(self) -> Path:
        self._number += 1
        place = self.folder / f"{self._number:05}"
        place.mkdir()
        return place

    def _scored(self, place: Path, name: str, outcome: Outcome) -> None:
        if problem := verdict.fault(outcome, PATIENCE):
            raise Loss(f"{place.name}/{name} {problem}")
        if outcome.code != 0:
            raise Loss(f"{place.name}/{name} fails: {outcome.last_line()}")
        cached = place / "hub/hub" / f"models--{hub_server.MODEL.replace('/', '--')}/snapshots/{hub_server.COMMIT}"
        for path in self.material.tiny.iterdir():
            if (cached / path.name).read_bytes() != path.read_bytes():
                raise Loss(f"{place.name}: {path.name} in the hub cache is not what the hub has")

    def _one_hub_cache(self, rng: random.Random) -> None:
        # Longer than a client that only tries for a while would wait.
        seconds = rng.choice([0.0, 0.2, 8.0])
        place = self._place()
        with hub_server.serve(self.material.tiny, seconds) as hub:
            running = []
            for name in ("first", "second"):
                running.append((name, self._score(hub, place, name)))
                sleep(rng.choice([0.0, rng.uniform(0, 0.5)]))
            outcomes = [(name, each.wait(PATIENCE.seconds)) for name, each in running]
        for name, outcome in outcomes:
            self._scored(place, name, outcome)
        shutil.rmtree(place)

    def _killed_download(self, rng: random.Random) -> None:
        place = self._place()
        with hub_server.serve(self.material.tiny, rng.choice([0.05, 0.3])) as hub:
            for number in range(rng.randint(1, 3)):
                running = self._score(hub, place, f"killed-{number}")
                blobs = place / "hub/hub" / f"models--{hub_server.MODEL.replace('/', '--')}/blobs"
                blobs.mkdir(parents=True, exist_ok=True)
                with Watch([blobs]) as watch:
                    for _ in range(rng.randint(1, 12)):
                        watch.wait(5.0, also=running.pidfd)
                running.kill()
            outcome = self._score(hub, place, "last").wait(PATIENCE.seconds)
        self._scored(place, "last", outcome)
        left = [path.name for path in blobs.iterdir() if path.suffix == ".part"]
        if left:
            raise Loss(f"{place.name}: parts of downloads are left: {', '.join(left)}")
        shutil.rmtree(place)
