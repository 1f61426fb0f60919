"""What an outcome must look like: success, or one sentence that names the file."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from program import MIB, Limits, Outcome

_PANIC = re.compile(r"panicked at|RUST_BACKTRACE|internal error: entered|stack overflow|memory allocation of")


def fault(outcome: Outcome, limits: Limits) -> str | None:
    """What no run may do, whatever it is given: None if it did nothing of that."""
    if outcome.timed_out:
        return f"did not end within {limits.seconds:g} s"
    if outcome.code < 0:
        return f"ended by {signal.Signals(-outcome.code).name}"
    if found := _PANIC.search(outcome.stderr):
        return f"panicked: stderr has {found.group()!r}"
    if outcome.code not in (0, 1):
        return f"ended with exit status {outcome.code}"
    if outcome.cpu_seconds > limits.cpu_seconds:
        return f"took {outcome.cpu_seconds:.1f} s of a core"
    if outcome.peak_bytes > limits.memory_bytes:
        return f"took {outcome.peak_bytes // MIB} MiB of memory"
    return None


def unclear(outcome: Outcome, names: Iterable[str]) -> str | None:
    """What is wrong with the message of a run that failed: None if it is one sentence with one of the names."""
    message = outcome.error()
    if not message:
        return "failed without a line `error: …`"
    if "\n" in message:
        return f"its error has {message.count(chr(10)) + 1} lines instead of one"
    names = list(names)
    if not any(name in message for name in names):
        return f"its error names none of {', '.join(names)}"
    return None


def judge(outcome: Outcome, names: Iterable[str], limits: Limits | None = None) -> str | None:
    """None if the run succeeded, or failed with a sentence that has one of the names; else what is wrong."""
    problem = fault(outcome, limits or Limits())
    if problem is None and outcome.code == 1:
        problem = unclear(outcome, names)
    return problem
