"""The phases of a training run, told apart by what it leaves on disk and on stderr, so that the program needs no
hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol

from watch import Event, Watch

SAVE = "a save"
EVALUATION = "an evaluation"
REFERENCE = "the reference pass"
REFERENCE_CACHE = "writing reference log-probs"
TOKENS = "writing the tokenised cache"
EXPORT = "the final export"
TRAINING = "a training step"
START = "before the data"
ENDED = "the end, after the final export"
MOMENT = "a random moment"

# Those that a kill can aim at, by what begins them.
AIMS = (SAVE, EVALUATION, REFERENCE, REFERENCE_CACHE, TOKENS, EXPORT)

RESULTS = ("model", "adapter")

# What a run says before and after it computes reference log-probs.
_REFERENCE_BEGINS, _REFERENCE_ENDS = "data.eval_records: ", "\nreference: "


@dataclass(frozen=True)
class Places:
    """Where a run writes."""

    output_dir: Path
    cache: Path
    log: Path
    has_reference: bool

    @property
    def samples(self) -> Path:
        return self.cache / "samples"

    @property
    def reference(self) -> Path:
        return self.cache / "reference"

    def folders(self) -> list[Path]:
        """The folders to watch; the run would make them."""
        found = [self.output_dir, self.samples, self.reference, self.log.parent]
        for folder in found:
            folder.mkdir(parents=True, exist_ok=True)
        return found


@dataclass(frozen=True)
class Rhythm:
    """What an uninterrupted run does when: for each aim, how often it begins and how many seconds it takes at most."""

    seconds: float
    eval_rows: tuple[int, ...]  # Indices of the lines of metrics.jsonl that an evaluation writes.
    spans: dict[str, tuple[int, float]]

    def possible(self) -> list[str]:
        """The aims that such a run reaches."""
        return [aim for aim in AIMS if self.spans.get(aim, (0, 0.0))[0] > 0]


class Process(Protocol):
    """The run that is watched."""

    pidfd: int

    def has_ended(self) -> bool: ...


class Phases:
    """Follows a run's events, and calls back when one of the aims begins or ends."""

    def __init__(self, places: Places, eval_rows: tuple[int, ...]) -> None:
        self.places = places
        self.eval_rows = eval_rows
        self._said = ""

    def follow(
        self, process: Process, watch: Watch, deadline: float, on: Callable[[str, bool, float], bool]
    ) -> None:
        """Calls `on(aim, begins, time)` until it returns True, the run ends, or `deadline`."""
        while not process.has_ended() and monotonic() < deadline:
            for event in watch.wait(deadline - monotonic(), also=process.pidfd):
                for aim, begins in self._changes(event):
                    if on(aim, begins, event.time):
                        return

    def _changes(self, event: Event) -> list[tuple[str, bool]]:
        places, name = self.places, event.name
        if event.folder == places.output_dir:
            if name == "metrics.jsonl" and event.kind in ("appear", "modify"):
                return self._of_metrics()
            target = name.removeprefix(".").removesuffix(".partial")
            if target in (name, name.removeprefix(".")):
                return []
            if target.startswith("checkpoint-"):
                return [(SAVE, event.kind == "appear")]
            if target in RESULTS:
                return [(EXPORT, event.kind == "appear")]
            return []
        if event.folder == places.samples and name.startswith(".partial-") and event.kind != "modify":
            return [(TOKENS, event.kind == "appear")]
        if event.folder == places.reference and name.endswith(".log_probs.partial") and event.kind != "modify":
            return [(REFERENCE_CACHE, event.kind == "appear")]
        if event.folder == places.log.parent and name == places.log.name:
            return self._of_log()
        return []

    def _of_metrics(self) -> list[tuple[str, bool]]:
        num_rows = num_lines(self.places.output_dir / "metrics.jsonl")
        changes = [(EVALUATION, False)] if num_rows - 1 in self.eval_rows else []
        return changes + ([(EVALUATION, True)] if num_rows in self.eval_rows else [])

    def _of_log(self) -> list[tuple[str, bool]]:
        before, self._said = self._said, read(self.places.log)
        if not self.places.has_reference:
            return []
        marks = [(_REFERENCE_BEGINS, True), (_REFERENCE_ENDS, False)]
        return [(REFERENCE, begins) for mark, begins in marks if mark in self._said and mark not in before]


def read(path: Path) -> str:
    """A file's text; empty if there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def num_lines(path: Path) -> int:
    """Number of complete lines of a file; 0 if there is none."""
    return read(path).count("\n")


def after_kill(places: Places, said: str, pid: int, eval_rows: tuple[int, ...]) -> str:
    """The phase in which a run was killed, by what it left behind."""
    names = {path.name for path in places.output_dir.iterdir()}
    partial = [name.removeprefix(".").removesuffix(".partial") for name in names if name.endswith(".partial")]
    if any(name.startswith("checkpoint-") for name in partial):
        return SAVE
    if any(name in RESULTS for name in partial):
        return EXPORT
    if any(name in names for name in RESULTS):
        return ENDED
    if any(path.name.startswith(".partial-") for path in places.samples.iterdir()):
        return TOKENS
    if any(path.name.endswith(".partial") for path in places.reference.iterdir()):
        return REFERENCE_CACHE
    # The first file that it writes when the first step is next.
    if not any(path.name.endswith(f".{pid}") for path in (places.output_dir / "tensorboard").glob("*")):
        begun = places.has_reference and _REFERENCE_BEGINS in said and _REFERENCE_ENDS not in said
        return REFERENCE if begun else START
    if num_lines(places.output_dir / "metrics.jsonl") in eval_rows:
        return EVALUATION
    return TRAINING


def eval_rows(max_steps: int, eval_steps: int) -> tuple[int, ...]:
    """Indices of the lines of a `metrics.jsonl` that evaluations write."""
    is_eval = [True]
    for step in range(1, max_steps + 1):
        is_eval += [False, True] if step % eval_steps == 0 or step == max_steps else [False]
    return tuple(number for number, found in enumerate(is_eval) if found)


def measure(process: Process, places: Places, watch: Watch, eval_rows: tuple[int, ...]) -> dict[str, tuple[int, float]]:
    """Follows an uninterrupted run to its end: how often each aim begins, and how long it takes at most."""
    begun: dict[str, float] = {}
    spans: dict[str, tuple[int, float]] = {}

    def on(aim: str, begins: bool, time: float) -> bool:
        if begins:
            begun[aim] = time
            count, longest = spans.get(aim, (0, 0.0))
            spans[aim] = (count + 1, longest)
        elif aim in begun:
            count, longest = spans[aim]
            spans[aim] = (count, max(longest, time - begun.pop(aim)))
        return False

    Phases(places, eval_rows).follow(process, watch, monotonic() + 600, on)
    return spans


def wait_for(
    process: Process, places: Places, watch: Watch, rhythm: Rhythm, aim: str, occurrence: int, delay: float
) -> bool:
    """Waits until `delay` seconds after `aim` begins for the n-th time; False if the run ended before."""
    left = occurrence

    def on(found: str, begins: bool, time: float) -> bool:
        nonlocal left
        if begins and found == aim:
            left -= 1
            if left <= 0:
                # From the event, not from here.
                sleep(max(0.0, time + delay - monotonic()))
                return True
        return False

    Phases(places, rhythm.eval_rows).follow(process, watch, monotonic() + 600, on)
    return not process.has_ended()
