"""What lies in a folder: leftovers, and whether two folders hold the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Metrics that differ between two runs of the same config.
CLOCKS = ("tokens_per_second", "step_secs", "peak_memory_bytes")
# What `steer` and `evaluate` have measured, which they keep beside their output until that is there.
INTERIM = ".unfinished.jsonl"
# The lock files of the cache's folders, which stay: `.lock` names no process, and locks nothing without one.
LASTING = (".lock",)


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files, by their paths in the folder; a link is its target."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def leftovers(folder: Path, lasting: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of what is hidden or temporary."""
    for path in sorted(folder.rglob("*")):
        is_temporary = path.name.startswith(".") or ".partial" in path.name or path.name.endswith(INTERIM)
        if is_temporary and path.name not in lasting:
            yield str(path)


def metrics(text: str) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` that are complete, without clocks."""
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # The last line of a run that was killed.
        rows.append({key: value for key, value in row.items() if key not in CLOCKS})
    return rows


def as_it_is(_: str, content: bytes) -> object:
    """A file's content with nothing left out."""
    return content


def difference(
    left: dict[str, bytes], right: dict[str, bytes], content: Callable[[str, bytes], object] = as_it_is
) -> str | None:
    """The first difference of two folders; None if they are equal. Of a file, `content(path, bytes)` is compared."""
    if left.keys() != right.keys():
        names = ", ".join(sorted(left.keys() ^ right.keys()))
        return f"only one of the two has {names}"
    for path, one in left.items():
        if content(path, one) != content(path, right[path]):
            return f"{path} differs"
    return None


def of_run(path: str, content: bytes) -> object:
    """A file of an output folder without what differs between runs of one config: clocks, whether it was resumed."""
    if path == "metrics.jsonl":
        return metrics(content.decode())
    if path == "run.toml":
        return [line for line in content.decode().splitlines() if not line.startswith("resume = ")]
    return content


def run_files(output_dir: Path) -> dict[str, bytes]:
    """The files of an output folder but TensorBoard's, of which each start writes one; paths in them are relative."""
    own = str(output_dir.parent).encode()
    found = {path: content for path, content in files(output_dir).items() if not path.startswith("tensorboard/")}
    return {path: relative(path, content, own) for path, content in found.items()}


def relative(path: str, content: bytes, folder: bytes) -> bytes:
    """A text without the path of a folder in it; weights are left as they are."""
    return content if path.endswith(".safetensors") else content.replace(folder, b".")
