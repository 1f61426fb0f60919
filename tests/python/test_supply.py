"""`make supply` fails on what it is there to find: known vulnerabilities, and crates that need a newer Rust."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ci" / "supply"))

import minimal_rust  # noqa: E402
import python_advisories as advisories  # noqa: E402

KNOWN = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"], "description": "It burns."}
LOCKS = {"one.txt": {("torch", "1.0"), ("numpy", "3.1")}, "two.txt": {("numpy", "3.0")}}


def said(*dependencies):
    return json.dumps({"dependencies": list(dependencies)})


def test_every_lock_is_read():
    locks = sorted((ROOT / "ci/requirements").glob("*.txt"))
    assert len(locks) > 9
    for lock in locks:
        text = lock.read_text()
        assert advisories.pins(text), lock
        pinned = [line for line in text.splitlines() if re.match(r"\w\S*==", line)]
        assert len(advisories.pins(text)) == len(pinned), lock


def test_packages_with_two_versions_are_asked_for_in_turn():
    assert advisories.rounds([("a", "1"), ("b", "1"), ("a", "2")]) == [[("a", "1"), ("b", "1")], [("a", "2")]]


def test_a_vulnerability_fails_unless_it_is_ignored_with_a_reason():
    known = said({"name": "Torch", "version": "1.0", "vulns": [KNOWN]}, {"name": "numpy", "version": "3.1", "vulns": []})
    found = advisories.read(known, "", {"torch": "1.0"})
    failing, notes = advisories.judge(found, LOCKS, {})
    assert failing == ["torch 1.0 (one.txt): PYSEC-1, CVE-1, fixed in 2.0: It burns."] and not notes
    failing, notes = advisories.judge(found, LOCKS, {"CVE-1": "it is wet here", "CVE-2": "gone"})
    assert not failing and "it is wet here" in notes[0] and notes[1] == "ignored.toml: CVE-2 is no longer found"


def test_an_ignored_vulnerability_has_a_reason(tmp_path):
    path = tmp_path / "ignored.toml"
    path.write_text('[[ignored]]\nid = "CVE-1"\npackage = "torch"\nreason = "it is wet here"\n')
    assert advisories.ignored(path) == {"CVE-1": "it is wet here"}
    path.write_text('[[ignored]]\nid = "CVE-1"\npackage = "torch"\n')
    with pytest.raises(SystemExit, match="lacks its id, package or reason"):
        advisories.ignored(path)
    assert advisories.ignored() is not None


def test_a_registry_without_advisories_is_told_from_one_that_lacks_a_package():
    def knows_nothing(pins):
        return advisories.Audit([], [name for name, _ in pins])

    with pytest.raises(advisories.Unreachable):
        advisories.audit(LOCKS, knows_nothing)

    def lacks_torch(pins):
        return advisories.Audit([], [name for name, _ in pins if name == "torch"])

    failing, notes = advisories.judge(advisories.audit(LOCKS, lacks_torch), LOCKS, {})
    assert not failing and notes == ["not known to the registry, so not audited: torch"]


def test_a_failure_is_not_taken_for_a_registry_that_does_not_answer():
    with pytest.raises(advisories.Unreachable):
        advisories.read("", "Traceback\nrequests.exceptions.ProxyError: HTTPSConnectionPool\n", {})
    with pytest.raises(SystemExit, match="invalid requirement"):
        advisories.read("", "ERROR: invalid requirement\n", {})


def metadata(*packages, own="1.92"):
    own_package = {"id": "own", "name": "own", "version": "0.1.0", "rust_version": own}
    others = [{"id": name, "name": name, "version": "1.0.0", "rust_version": version} for name, version in packages]
    return {"workspace_members": ["own"], "packages": [own_package, *others]}


def test_a_crate_that_needs_a_newer_rust_is_found():
    assert minimal_rust.problems(metadata(("a", "1.9"), ("b", None), ("c", "1.92.0"))) == []
    assert minimal_rust.problems(metadata(("a", "1.92.1"), ("b", "1.100"))) == [
        "a 1.0.0 needs Rust 1.92.1, the workspace says 1.92",
        "b 1.0.0 needs Rust 1.100, the workspace says 1.92",
    ]
    assert "do not name one rust-version" in minimal_rust.problems(metadata(own=None))[0]
