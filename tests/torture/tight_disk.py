"""Runs commands on a file system of a few MiB, which this process mounts in a namespace of its own (see `disk.py`).

Reads a request as JSON from stdin:

    {"folder": where to mount, "size": bytes, "environment": {…}, "seconds": limit of a command,
     "steps": [{"free": bytes, "commands": [[word, …], …]}, …]}

For each step the file system is emptied, filled up by a file so that so many bytes are free, and the commands run one
after another; before the last one the file is removed. Prints a line for each step, `{"outcomes": [[status, stderr],
…], "files": {path: contents in base64}}`, after a first line `{"mounted": true}` or `{"mounted": false, "problem":
text}`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def mount(folder: Path, size: int) -> str | None:
    """Mounts a new file system; returns why it cannot."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no mount"
    return None if done.returncode == 0 else done.stderr.strip() or f"mount ended with {done.returncode}"


def fill(folder: Path, free: int) -> Path:
    """Writes a file that leaves `free` bytes."""
    path = folder / "ballast"
    status = os.statvfs(folder)
    size = max(0, status.f_bavail * status.f_frsize - free)
    with path.open("wb") as file:
        while size > 0:
            size -= file.write(bytes(min(size, 1 << 20)))
    return path


def clear(folder: Path) -> None:
    """Removes all that is in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(words: list[str], environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """The exit status and stderr of a command; status 124 if it takes too long."""
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        return 124, (late.stderr or b"").decode(errors="replace")
    return done.returncode, done.stderr.decode(errors="replace")


def files(folder: Path) -> dict[str, str]:
    """Contents of all files in base64, by their paths."""
    return {
        str(path.relative_to(folder)): base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    folder = Path(request["folder"])
    if problem := mount(folder, int(request["size"])):
        print(json.dumps({"mounted": False, "problem": problem}), flush=True)
        return
    print(json.dumps({"mounted": True}), flush=True)
    for step in request["steps"]:
        clear(folder)
        ballast = fill(folder, int(step["free"]))
        outcomes = []
        *first, last = step["commands"]
        for words in first:
            outcomes.append(run(words, request["environment"], float(request["seconds"])))
        ballast.unlink()
        outcomes.append(run(last, request["environment"], float(request["seconds"])))
        print(json.dumps({"outcomes": outcomes, "files": files(folder)}), flush=True)


if __name__ == "__main__":
    main()
