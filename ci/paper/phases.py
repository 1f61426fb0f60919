"""Makes the steps of a study: phase after phase, several at a time within one, with a line for each that is finished."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, TypeVar

import steps
from study import ROOT, StudyError

Step = tuple[str, Callable[[], None]]


class Progress:
    """A line for each finished step: how many there are, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started, self.lock = total, 0, time.monotonic(), threading.Lock()
        self.secs_worked, self.num_worked = 0.0, 0

    def finished(self, name: str, secs: float, jobs: int) -> None:
        """A step that took less than a second was there already, and says nothing about the others."""
        with self.lock:
            self.done += 1
            if secs >= 1:
                self.secs_worked, self.num_worked = self.secs_worked + secs, self.num_worked + 1
            rest = self.secs_worked / max(self.num_worked, 1) * (self.total - self.done) / jobs
            left = f", about {rest / 60:.0f} min left" if rest >= 60 else ""
            print(f"{self.done} of {self.total}: {name}, {secs:.0f} s{left}", flush=True)


def make(plan: Sequence[Sequence[Step]], jobs: int) -> None:
    """Makes the steps of a phase, `jobs` at a time, once those of the phase before are finished.

    If one fails, or the user interrupts, what is running ends, and nothing more is begun.
    """
    progress = Progress(sum(len(phase) for phase in plan))
    stopped = threading.Event()

    def step(name: str, work: Callable[[], None]) -> None:
        if stopped.is_set():
            return
        started = time.monotonic()
        try:
            work()
        except BaseException:
            stopped.set()
            raise
        progress.finished(name, time.monotonic() - started, jobs)

    for phase in plan:
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(step, *item) for item in phase]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                # What is running ends, trainings with a checkpoint; what waits is not begun.
                stopped.set()
                steps.stop()
                raise


class Planned(Protocol):
    """What every study says of itself."""

    jobs: int
    page: Path


S = TypeVar("S", bound=Planned)


def main(
    example: str,
    load: Callable[[Path], S],
    plan: Callable[[S], list[list[Step]]],
    page: Callable[[S, Path], str],
) -> None:
    """The program of a study: makes what its one argument, a file such as `example`, describes, and writes its page."""
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        if len(sys.argv) != 2:
            raise StudyError(f"Give one file, such as {example}.")
        source = Path(sys.argv[1])
        study = load(source)
        make(plan(study), study.jobs)
        study.page.parent.mkdir(parents=True, exist_ok=True)
        study.page.write_text(page(study, source), encoding="utf-8")
    except StudyError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
    print(f"wrote {os.path.relpath(study.page, ROOT)} after {(time.monotonic() - started) / 60:.1f} min")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
