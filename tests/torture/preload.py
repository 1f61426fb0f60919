"""Compiles the small C libraries that are preloaded into the program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def compile_library(source: Path, folder: Path) -> Path | str:
    """Compiles a C file to a shared library in `folder`; returns why that is not possible."""
    library = folder / source.with_suffix(".so").name
    compiler = os.environ.get("CC", "cc")
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"there is no C compiler ({compiler})"
    return library if done.returncode == 0 else f"{compiler} cannot compile {source.name}: {done.stderr.strip()}"
