"""What a campaign tried, how often, and what it found: the table at its end."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something that must not happen, with what is needed to see it again."""

    part: str
    what: str
    problem: str
    folder: Path
    command: str
    said: str = ""

    def text(self) -> str:
        """A paragraph for a person."""
        lines = [f"FINDING ({self.part}; {self.what}): {self.problem}", f"  folder: {self.folder}"]
        lines.append(f"  command: {self.command}")
        if self.said:
            lines.append("  said: " + self.said.strip().replace("\n", "\n        ")[-2000:])
        return "\n".join(lines)


@dataclass
class Row:
    """A line of the table."""

    part: str
    what: str
    tried: int = 0
    notes: str = ""
    findings: list[Finding] = field(default_factory=list)
    skipped: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was tried, and nothing is to be said about that."""
        return not (self.tried or self.skipped or self.findings)

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its cells, as text."""
        if self.skipped:
            return self.part, self.what, "skipped", "–", self.skipped
        return self.part, self.what, f"{self.tried:,}", str(len(self.findings)), self.notes


class Table:
    """The rows of all parts; safe to fill from several threads."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._lock = threading.Lock()

    def row(self, part: str, what: str) -> Row:
        """The row of this name, made if missing."""
        with self._lock:
            for row in self.rows:
                if (row.part, row.what) == (part, what):
                    return row
            self.rows.append(Row(part, what))
            return self.rows[-1]

    def count(self, part: str, what: str, times: int = 1) -> None:
        """Counts tries."""
        row = self.row(part, what)
        with self._lock:
            row.tried += times

    def note(self, part: str, what: str, notes: str) -> None:
        """Sets what a reader should know of a row."""
        self.row(part, what).notes = notes

    def skip(self, part: str, what: str, reason: str) -> None:
        """Says why something was not tried."""
        self.row(part, what).skipped = reason

    def find(self, finding: Finding) -> None:
        """Adds a finding, and prints it."""
        row = self.row(finding.part, finding.what)
        with self._lock:
            row.findings.append(finding)
            print(finding.text(), flush=True)

    def findings(self) -> list[Finding]:
        """All findings, in the order of the rows."""
        return [finding for row in self.rows for finding in row.findings]

    def text(self) -> str:
        """The table in columns."""
        cells = [("part", "what", "tried", "findings", ""), *(row.cells() for row in self.rows if not row.is_empty)]
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        lines = []
        for part, what, tried, findings, notes in cells:
            left = f"{part:<{widths[0]}}  {what:<{widths[1]}}"
            lines.append(f"{left}  {tried:>{widths[2]}}  {findings:>{widths[3]}}  {notes}".rstrip())
        return "\n".join(lines)


def say(line: str) -> None:
    """Prints a line of progress."""
    print(line, flush=True)
    sys.stdout.flush()
