"""Checks that no dependency asks for a newer Rust than the workspace says it needs (`rust-version` in Cargo.toml).

The compiler in use is newer, so the build would not notice. What the workspace itself uses of the standard library is
clippy's to check: its lint `incompatible_msrv` is on by default.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def metadata(manifest: Path) -> dict[str, Any]:
    """What cargo says of the locked packages for this machine's platform."""
    version = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    host = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    words = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    done = subprocess.run([*words, "--manifest-path", str(manifest)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"cargo metadata of {manifest} failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def parsed(version: str) -> tuple[int, int, int]:
    """A version of Rust, such as 1.92 or 1.92.1."""
    numbers = [int(part) for part in version.split("-")[0].split(".")]
    major, minor, patch = (numbers + [0, 0])[:3]
    return major, minor, patch


def problems(found: dict[str, Any]) -> list[str]:
    """Members of the workspace that differ or say nothing, and dependencies that need more."""
    members = set(found["workspace_members"])
    own = {package["name"]: package["rust_version"] for package in found["packages"] if package["id"] in members}
    said = set(own.values())
    if len(said) != 1 or None in said:
        named = ", ".join(f"{name} {version or 'none'}" for name, version in sorted(own.items()))
        return [f"the crates of the workspace do not name one rust-version: {named}"]
    least = said.pop()
    return [
        f"{package['name']} {package['version']} needs Rust {package['rust_version']}, the workspace says {least}"
        for package in found["packages"]
        if package["rust_version"] and parsed(package["rust_version"]) > parsed(least)
    ]


def main() -> int:
    """Exits with status 1 if a dependency needs a newer Rust."""
    found = metadata(ROOT / "Cargo.toml")
    if wrong := problems(found):
        print("\n".join(wrong), file=sys.stderr)
        print("Lock older versions, or raise rust-version in Cargo.toml.", file=sys.stderr)
        return 1
    versions = [package["rust_version"] for package in found["packages"] if package["rust_version"]]
    newest = max(versions, key=parsed)
    print(f"minimal Rust: none of {len(found['packages'])} crates needs more than {newest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
