"""Runs the program with limits on time and memory, and keeps what it said and how it ended."""

from __future__ import annotations

import os
import resource
import select
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from started import Starter

ROOT = Path(__file__).resolve().parents[2]

MIB = 1 << 20
# What a lying length makes the program ask for at once ends there, before it takes the machine's memory.
ADDRESS_BYTES = 4096 * MIB
# No report needs more of what a run said.
_KEPT_STDERR_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a run may take: seconds of all cores together, bytes of memory at its peak, and seconds by the clock, which
    are more, because other processes may take the cores."""

    cpu_seconds: float = 10.0
    memory_bytes: int = 1024 * MIB
    seconds: float = 40.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int  # Exit status, or minus the number of the signal that ended it.
    stderr: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    timed_out: bool = False

    def last_line(self) -> str:
        """The last line of stderr, where the program says why it failed."""
        lines = self.stderr.rstrip("\n").splitlines()
        return lines[-1] if lines else ""

    def error(self) -> str:
        """The program's own error message with all that follows it; empty if there is none."""
        at = self.stderr.find("error: ") if self.stderr.startswith("error: ") else self.stderr.find("\nerror: ")
        return self.stderr[at:].strip("\n") if at >= 0 else ""


@dataclass(frozen=True)
class Program:
    """The built program with its library, and the environment that its runs share."""

    binary: Path
    plugin: Path
    environment: dict[str, str] = field(default_factory=dict)
    # Words before the command, such as those of `unshare`.
    wrapper: tuple[str, ...] = ()
    # Starts what is run to its end, if there is nothing before the command.
    starter: Starter | None = None

    @staticmethod
    def find(environment: Mapping[str, str] = os.environ) -> Program:
        """Finds what is built: LAMBDA_DPO_PROGRAM and LAMBDA_DPO_PLUGIN, else target/release.

        Raises SystemExit if it is not there.
        """
        built = Path(environment.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        binary = Path(environment.get("LAMBDA_DPO_PROGRAM", built / "lambda-dpo")).resolve()
        plugin = Path(environment.get("LAMBDA_DPO_PLUGIN", binary.with_name("liblambda_dpo.so"))).resolve()
        for path in (binary, plugin):
            if not path.is_file():
                raise SystemExit(f"{path} is not there: build it with `make build`")
        return Program(binary, plugin)

    def in_folder(self, folder: Path, **variables: str) -> Program:
        """The program with a home, cache and temporary folder under `folder`, without network, on two threads."""
        own = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LAMBDA_DPO_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "2",
            # Threads that wait for each other leave the cores to the campaign's other processes.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return replace(self, environment={**self.environment, **own, **variables})

    def with_starter(self, starter: Starter) -> Program:
        """The program as `starter` runs it."""
        return replace(self, starter=starter)

    def with_environment(self, **variables: str) -> Program:
        """The program with more variables."""
        return replace(self, environment={**self.environment, **variables})

    def within(self, *words: str) -> Program:
        """The program started by another, whose words come first."""
        return replace(self, wrapper=words)

    def command(self, arguments: Sequence[str | Path]) -> list[str]:
        """The words of a command line."""
        return [*self.wrapper, str(self.binary), "--plugin", str(self.plugin), *map(str, arguments)]

    def variables(self) -> dict[str, str]:
        """The whole environment of a run: nothing of the caller's that the program reads."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return {"PATH": os.defpath, **kept, **self.environment}

    def line(self, arguments: Sequence[str | Path]) -> str:
        """The command as a line for a shell, with its variables, to run it again by hand."""
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items()))
        return f"env {variables} {shlex.join(self.command(arguments))}"

    def start(self, arguments: Sequence[str | Path], *, cwd: Path, log: Path) -> Running:
        """Starts a run, whose stderr goes to the file `log`."""
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                self.command(arguments),
                cwd=cwd,
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        return Running(process, log)

    def run(
        self, arguments: Sequence[str | Path], *, cwd: Path, log: Path | None = None, limits: Limits | None = None
    ) -> Outcome:
        """Runs to the end, or for `limits.seconds`."""
        log, seconds = log or cwd / "stderr.txt", (limits or Limits()).seconds
        if self.starter is None or self.wrapper or "LD_PRELOAD" in self.environment:
            return self.start(arguments, cwd=cwd, log=log).wait(seconds)
        ended = self.starter.run(self.command(arguments), self.variables(), cwd, log, seconds)
        code = os.waitstatus_to_exitcode(ended.status)
        return Outcome(code, said(log), ended.seconds, ended.cpu_seconds, ended.peak_bytes, ended.timed_out)


def limit_children() -> None:
    """Forbids this process, and all that it starts, core dumps and memory beyond what a machine can spare."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (ADDRESS_BYTES, ADDRESS_BYTES))


def said(log: Path) -> str:
    """What a run wrote to stderr."""
    with log.open("rb") as file:
        return file.read(_KEPT_STDERR_BYTES).decode(errors="replace")


class Running:
    """A run that has been started; its process is waited for exactly once."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.started = monotonic()
        self.pidfd = os.pidfd_open(process.pid)
        self._outcome: Outcome | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_ended(self) -> bool:
        """Whether it has ended by itself or by a signal."""
        return self._outcome is not None or self._ended_within(0.0)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process has not ended."""
        if self._outcome is None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def wait(self, seconds: float) -> Outcome:
        """Waits for the end; a process that takes longer is killed."""
        if self._outcome is None:
            timed_out = not self._ended_within(seconds)
            if timed_out:
                self.signal(signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
            elapsed = monotonic() - self.started
            os.close(self.pidfd)
            code = os.waitstatus_to_exitcode(status)
            self.process.returncode = code
            cpu = usage.ru_utime + usage.ru_stime
            # Linux counts in KiB.
            self._outcome = Outcome(code, said(self.log), elapsed, cpu, usage.ru_maxrss << 10, timed_out)
        return self._outcome

    def kill(self) -> Outcome:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        return self.wait(60.0)

    def _ended_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))
