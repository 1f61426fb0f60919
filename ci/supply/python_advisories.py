"""Looks for known vulnerabilities in the Python packages of all locks, by the registry's advisories (pip-audit).

Fails on each that ignored.toml, beside this file, does not list with a reason. If the registry cannot be reached, or is
one that has no advisories, it says so and succeeds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "ci/requirements"
IGNORED = Path(__file__).with_name("ignored.toml")

# A package and its version.
Pin = tuple[str, str]

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
# How pip-audit ends if the registry does not answer; everything else is an error.
_UNREACHABLE = re.compile(
    r"requests\.exceptions\.\w*(?:Error|Timeout)|Could not connect|redirecting properly|ServiceError"
)


class Unreachable(Exception):
    """The registry does not answer."""


@dataclass(frozen=True)
class Vulnerability:
    """What is known of one version of a package."""

    pin: Pin
    names: tuple[str, ...]  # Its id and aliases.
    fixed_in: tuple[str, ...]
    description: str

    def text(self, locks: Iterable[str]) -> str:
        """A line for a person."""
        fixed = ", ".join(self.fixed_in) or "no version"
        where = f"{self.pin[0]} {self.pin[1]} ({', '.join(sorted(locks))})"
        return f"{where}: {', '.join(self.names)}, fixed in {fixed}: {self.description[:200]}"


@dataclass(frozen=True)
class Audit:
    """What the registry says of some packages."""

    vulnerabilities: list[Vulnerability]
    unknown: list[str]  # Packages that the registry does not tell of.


def pins(text: str) -> set[Pin]:
    """The packages of a lock."""
    return {(name.lower().replace("_", "-"), version) for name, version in _PIN.findall(text)}


def rounds(wanted: Iterable[Pin]) -> list[list[Pin]]:
    """The packages in lists that have one version of each, since pip-audit refuses two."""
    versions: dict[str, list[str]] = {}
    for name, version in sorted(wanted):
        versions.setdefault(name, []).append(version)
    most = max(map(len, versions.values()), default=0)
    return [[(name, found[at]) for name, found in versions.items() if at < len(found)] for at in range(most)]


def ask(wanted: list[Pin]) -> Audit:
    """Asks the registry, through pip-audit.

    Raises Unreachable, and SystemExit if pip-audit fails in another way.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in wanted)
        file.flush()
        options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        words = [sys.executable, "-m", "pip_audit", "--requirement", file.name, *options]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    return read(done.stdout, done.stderr, dict(wanted))


def read(stdout: str, stderr: str, versions: Mapping[str, str]) -> Audit:
    """Reads what pip-audit said, which also fails if it finds something."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except json.JSONDecodeError:
        last = stderr.strip().rpartition("\n")[2]
        if found := _UNREACHABLE.search(last):
            raise Unreachable(found.group()) from None
        raise SystemExit(f"pip-audit failed:\n{stderr}") from None
    vulnerabilities, unknown = [], []
    for dependency in dependencies:
        name = dependency["name"].lower().replace("_", "-")
        if "skip_reason" in dependency:
            unknown.append(name)
        for known in dependency.get("vulns", []):
            names = (known["id"], *known["aliases"])
            pin = (name, versions.get(name, dependency.get("version", "")))
            vulnerabilities.append(Vulnerability(pin, names, tuple(known["fix_versions"]), known["description"]))
    return Audit(vulnerabilities, unknown)


def audit(locks: Mapping[str, set[Pin]], asked: Callable[[list[Pin]], Audit]) -> Audit:
    """Asks for the packages of all locks: first for a few, since a registry without advisories knows none of them.

    Raises Unreachable.
    """
    wanted = sorted(set().union(*locks.values()))
    if len(asked(rounds(wanted[:5])[0]).unknown) == len(rounds(wanted[:5])[0]):
        raise Unreachable("the registry in use has none")
    found = [asked(some) for some in rounds(wanted)]
    vulnerabilities = [vulnerability for one in found for vulnerability in one.vulnerabilities]
    return Audit(vulnerabilities, sorted({name for one in found for name in one.unknown}))


def ignored(path: Path = IGNORED) -> dict[str, str]:
    """Reasons for passing over vulnerabilities, by their names.

    Raises SystemExit if one has no reason.
    """
    found: dict[str, str] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("ignored", []):
        if not all(entry.get(key) for key in ("id", "package", "reason")):
            raise SystemExit(f"{path}: an entry lacks its id, package or reason: {entry}")
        found[entry["id"]] = entry["reason"]
    return found


def judge(found: Audit, locks: Mapping[str, set[Pin]], reasons: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Lines of what fails, and of what is only said."""
    failing, passed_over, used = [], [], set()
    for one in found.vulnerabilities:
        line = one.text(name for name, pinned in locks.items() if one.pin in pinned)
        if names := set(one.names) & reasons.keys():
            used |= names
            passed_over.append(f"passed over: {line} ({reasons[names.pop()]})")
        else:
            failing.append(line)
    said = passed_over + [f"{IGNORED.name}: {name} is no longer found" for name in sorted(reasons.keys() - used)]
    if found.unknown:
        said.append(f"not known to the registry, so not audited: {', '.join(found.unknown)}")
    return failing, said


def main() -> int:
    """Exits with status 1 if there is a vulnerability to see to."""
    locks = {path.name: pins(path.read_text(encoding="utf-8")) for path in sorted(LOCKS.glob("*.txt"))}
    reasons = ignored()
    try:
        found = audit(locks, ask)
    except Unreachable as reason:
        print(f"skipped: advisories for Python packages ({reason})")
        return 0
    failing, said = judge(found, locks, reasons)
    num_versions = len(set().union(*locks.values()))
    print("\n".join([*said, f"{num_versions} packages in {len(locks)} locks: {len(failing)} known vulnerabilities"]))
    if failing:
        print("\n".join(failing), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
