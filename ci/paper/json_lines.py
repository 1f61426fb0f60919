"""Files of JSON lines."""

import json
from pathlib import Path


def read(path: Path) -> list[dict]:
    """The objects of a file. str.splitlines would also end lines at U+2028 and others, which may stand in JSON's texts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
