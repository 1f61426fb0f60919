"""Makes the steps of a study: phase after phase, several at a time within one, with a line for each that is finished."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import steps

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
