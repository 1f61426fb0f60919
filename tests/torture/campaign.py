"""The campaign: kills the program, starves it, feeds it rubbish, and runs it beside itself; ends with a table.

    ci/torture.sh                    the whole campaign, for TORTURE_MINUTES (25)
    ci/torture.sh --short            a minute of it
    ci/torture.sh kills damage       only these parts
    ci/torture.sh long               only the long run, which is not in the whole campaign: with TORTURE_MINUTES=120
    ci/torture.sh --report           also writes the table into docs/reliability.md, in place of these parts' lines
    ci/torture.sh --damage 1234      repeats one damaged file of TORTURE_SEED

Everything random follows from TORTURE_SEED, which is printed. Exits with status 1 if there is a finding, and keeps the
folders of all findings in target/torture, or in the folder torture of TORTURE_FOLDER: two campaigns at a time need one
each.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import reliability
from damage import Damages
from disk import Disk
from killed_commands import KilledCommands
from kills import Kills
from long_run import LongRun
from material import Material, make
from preload import compile_library
from program import ROOT, Program, limit_children
from started import Starter
from table import Table, say
from together import Together

MINUTES = 25.0
SHORT_MINUTES = 1.0


@dataclass(frozen=True)
class Share:
    """A part's share of the time, and how often it tries something at most."""

    time: float
    most: int
    short_most: int


# The rest of a part's time goes to the next one.
SHARES = {
    "kills": Share(0.35, 100_000, 3),
    "commands": Share(0.12, 100_000, 4),
    "disk": Share(0.13, 2_000, 4),
    "together": Share(0.1, 1_000, 1),
    "damage": Share(0.3, 1_000_000, 1_000),
    "long": Share(1.0, 1, 0),
}
# Only where it is named: growth shows after hours.
EXTRA = "long"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"parts to run: {', '.join(SHARES)} (all but {EXTRA})")
    parser.add_argument("--short", action="store_true", help="a minute of it")
    parser.add_argument("--report", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--damage", type=int, metavar="NUMBER", help="repeat this damage of TORTURE_SEED")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(SHARES):
        parser.error(f"{', '.join(sorted(unknown))} is no part: there are {', '.join(SHARES)}")
    if arguments.short and EXTRA in arguments.parts:
        parser.error(f"{EXTRA} has no short form: in a minute, nothing shows that memory does not grow")
    chosen = arguments.parts or [part for part in SHARES if part != EXTRA]
    seed = os.environ.get("TORTURE_SEED") or secrets.token_hex(4)
    minutes = SHORT_MINUTES if arguments.short else float(os.environ.get("TORTURE_MINUTES", MINUTES))
    jobs = int(os.environ.get("TORTURE_JOBS", len(os.sched_getaffinity(0))))

    folder = Path(os.environ.get("TORTURE_FOLDER", ROOT / "target")).resolve() / "torture"
    shutil.rmtree(folder, ignore_errors=True)
    limit_children()
    program = Program.find()
    say(f"seed {seed}, {minutes:g} minutes, {jobs} processes at a time, in {folder}")
    began, commit = monotonic(), reliability.checked_out()
    folder.mkdir(parents=True)
    library = compile_library(Path(__file__).with_name("started.c"), folder)
    if isinstance(library, Path):
        program = program.with_starter(Starter(library, program.plugin))
    else:
        say(f"fewer tries, since every run loads libtorch: {library}")
    material = make(program, folder / "material")
    say(f"models, runs and exports to work on: {monotonic() - began:.0f} s")
    table = Table()
    if arguments.damage is not None:
        Damages(program, material, folder / "damage", seed, table, 1).only(arguments.damage)
    else:
        parts = Parts(program, material, folder, seed, table, jobs)
        parts.run(chosen, began + minutes * 60, arguments.short)
    findings = table.findings()
    say("")
    say(table.text())
    say("")
    took = monotonic() - began
    say(f"{len(findings)} findings, seed {seed}, {took / 60:.1f} minutes")
    if arguments.report:
        run = reliability.Run.now(commit, seed, took)
        reliability.write(ROOT / "docs/reliability.md", table, run, chosen)
    if findings:
        say(f"the folders of findings are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


@dataclass(frozen=True)
class Parts:
    """The parts of the campaign, with all that they work on."""

    program: Program
    material: Material
    folder: Path
    seed: str
    table: Table
    jobs: int

    def run(self, parts: list[str], end: float, short: bool) -> None:
        """Runs parts until `end`, each for its share of the time that is left."""
        for number, part in enumerate(parts):
            share = SHARES[part]
            left = sum(SHARES[other].time for other in parts[number:])
            began = monotonic()
            deadline = began + max(0.0, end - began) * share.time / left
            self._part(part)(deadline, share.short_most if short else share.most)
            say(f"{part}: done after {monotonic() - began:.0f} s")

    def _part(self, name: str) -> Callable[[float, int], None]:
        own = (self.program, self.material, self.folder / name, self.seed, self.table)
        match name:
            case "kills":
                return Kills(*own).run
            case "commands":
                return KilledCommands(*own).run
            case "disk":
                return Disk(*own).run
            case "together":
                return Together(*own).run
            case "long":
                long = LongRun(self.program, self.folder / name, self.seed, self.table)
                return lambda deadline, _: long.run(deadline)
            case _:
                return Damages(*own, self.jobs).run


if __name__ == "__main__":
    sys.exit(main())
