"""safetensors files as header and data, to split one into shards or to write a header that lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PREFIX_BYTES = 8

Header = dict[str, Any]


def split(content: bytes) -> tuple[Header, bytes]:
    """The header and the data of a file's content."""
    length = int.from_bytes(content[:PREFIX_BYTES], "little")
    end = PREFIX_BYTES + length
    header: Header = json.loads(content[PREFIX_BYTES:end])
    return header, content[end:]


def join(header: Header, data: bytes) -> bytes:
    """The content of a file, its header padded to a multiple of 8 bytes."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % PREFIX_BYTES)
    return len(text).to_bytes(PREFIX_BYTES, "little") + text + data


def write_shards(weights: Path, folder: Path) -> None:
    """Writes the tensors of a file into two shards with an index, as Transformers names them."""
    header, data = split(weights.read_bytes())
    names = sorted(name for name in header if name != "__metadata__")
    half = len(names) // 2
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        shard: Header = {"__metadata__": {"format": "pt"}}
        content = b""
        for name in part:
            start, end = header[name]["data_offsets"]
            entry = {"dtype": header[name]["dtype"], "shape": header[name]["shape"]}
            shard[name] = {**entry, "data_offsets": [len(content), len(content) + end - start]}
            content += data[start:end]
            weight_map[name] = file
        (folder / file).write_bytes(join(shard, content))
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
