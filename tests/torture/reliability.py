"""Writes the campaign's table into docs/reliability.md, between its markers."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from program import ROOT
from table import Table

BEGIN, END = "<!-- written by make torture: begin -->", "<!-- written by make torture: end -->"


def write(page: Path, table: Table, commit: str, seed: str, seconds: float) -> None:
    """Replaces what stands between the markers.

    Raises SystemExit if the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} lacks the lines {BEGIN} and {END}: put them where the table belongs")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{section(table, commit, seed, seconds)}\n\n{END}{after}", encoding="utf-8")


def section(table: Table, commit: str, seed: str, seconds: float) -> str:
    """When and where it was measured, and the table."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    where = f"{date}, commit {commit}, {processor()}, seed `{seed}`, {seconds / 60:.0f} minutes"
    return f"{where}: {len(table.findings())} findings.\n\n{table.markdown()}"


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
