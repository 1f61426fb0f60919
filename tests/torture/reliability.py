"""Writes the campaign's tables into docs/reliability.md, between its markers: when each part ran, and what it tried.

A campaign replaces the lines of the parts that it ran, so that long and short ones can take turns.
"""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from program import ROOT
from table import Table

BEGIN, END = "<!-- written by make torture: begin -->", "<!-- written by make torture: end -->"
RUNS = "| part | date | commit | seed | minutes | findings | machine |\n|---|---|---|---|---:|---:|---|"
ROWS = "| part | what | tried | findings | |\n|---|---|---:|---:|---|"
_NUM_RUN_CELLS, _NUM_ROW_CELLS = 7, 5


@dataclass(frozen=True)
class Run:
    """When and where a campaign ran."""

    date: str
    commit: str
    seed: str
    minutes: float
    machine: str

    @staticmethod
    def now(commit: str, seed: str, seconds: float) -> Run:
        """A campaign that ends now, on this machine."""
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        return Run(date, commit, seed, seconds / 60, processor())

    def line(self, part: str, num_findings: int) -> str:
        """A line of the table of runs."""
        cells = (part, self.date, self.commit, f"`{self.seed}`", f"{self.minutes:.0f}", str(num_findings), self.machine)
        return f"| {' | '.join(cells)} |"


def write(page: Path, table: Table, run: Run, parts: Iterable[str]) -> None:
    """Replaces the lines of `parts` between the markers; those of other parts stay.

    Raises SystemExit if the page lacks the markers.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} lacks the lines {BEGIN} and {END}: put them where the table belongs")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{section(old, table, run, list(parts))}\n\n{END}{after}", encoding="utf-8")


def section(old: str, table: Table, run: Run, parts: list[str]) -> str:
    """The two tables, with the lines of other parts as they are in `old`."""
    num_findings = {part: sum(finding.part == part for finding in table.findings()) for part in parts}
    runs = [line for line in _lines(old, RUNS, _NUM_RUN_CELLS) if _cells(line)[0] not in parts]
    runs += [run.line(part, num_findings[part]) for part in parts]
    rows = [line for line in _lines(old, ROWS, _NUM_ROW_CELLS) if _cells(line)[0] not in parts]
    rows += [f"| {' | '.join(row.cells())} |" for row in table.rows if not row.is_empty]
    return "\n".join([RUNS, *runs, "", ROWS, *rows])


def _lines(text: str, head: str, num_cells: int) -> list[str]:
    """The lines of the table with that many cells."""
    found = [line for line in text.splitlines() if line.startswith("|") and len(_cells(line)) == num_cells]
    return [line for line in found if line not in head.splitlines()]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def checked_out() -> str:
    """The commit that is checked out, as git describes it."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, and how many of its cores there are."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{len(names)} cores of {names[0] if names else 'an unknown processor'}"
