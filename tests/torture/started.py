"""Runs the program without loading libtorch for each run: a process that has loaded it forks (see `started.c`)."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# What libraries read from the environment while they are loaded begins with one of these.
_READ_AT_LOAD = ("OMP_", "MKL_", "KMP_", "LD_", "MALLOC_", "GLIBC_")
_ANSWER_BYTES = 160
# More than a run can take after its time is over.
_SPARE_SECONDS = 60.0


class Ended(NamedTuple):
    """How a run ended."""

    status: int  # As `os.wait` has it.
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    timed_out: bool


class Started:
    """A program that is about to begin, as often as it is asked to; for one thread at a time."""

    def __init__(self, libraries: Sequence[Path], binary: str, environment: Mapping[str, str]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = other.fileno()
        own = {"LD_PRELOAD": ":".join(map(str, libraries)), "STARTED_SOCKET": str(number)}
        # It ends with the socket, and so with this process.
        self._process = subprocess.Popen(
            [binary], env={**environment, **own}, pass_fds=(number,), stdin=subprocess.DEVNULL
        )
        other.close()

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path, seconds: float
    ) -> Ended:
        """Runs a command, whose stderr goes to `log`, and kills it after `seconds`.

        Raises RuntimeError if there is no answer.
        """
        variables = [f"{name}={value}" for name, value in environment.items()]
        texts = [str(seconds), str(cwd.absolute()), str(log.absolute()), str(len(command)), *command, *variables]
        self._socket.settimeout(seconds + _SPARE_SECONDS)
        self._socket.send(b"".join(os.fsencode(text) + b"\0" for text in texts))
        answer = self._socket.recv(_ANSWER_BYTES).split()
        if len(answer) != 5:
            raise RuntimeError(f"the process that starts runs has ended with {self._process.wait(_SPARE_SECONDS)}")
        status, took, cpu, peak_kib, late = answer
        return Ended(int(status), float(took), float(cpu), int(peak_kib) << 10, late == b"1")


class Starter:
    """Such a process for each thread, and for each environment that the libraries read while they are loaded."""

    def __init__(self, library: Path, plugin: Path) -> None:
        # With the plugin, which the program then opens: it takes some time to load, too.
        self._libraries = (library, plugin)
        self._local = threading.local()

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path, seconds: float
    ) -> Ended:
        """Runs a command as `Started.run` does."""
        load = {name: value for name, value in environment.items() if name.startswith(_READ_AT_LOAD)}
        key = (command[0], *sorted(load.items()))
        started: dict[tuple[object, ...], Started] = self._local.__dict__.setdefault("started", {})
        if key not in started:
            started[key] = Started(self._libraries, command[0], load)
        return started[key].run(command, environment, cwd, log, seconds)
