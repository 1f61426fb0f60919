"""Ways to damage a file: bytes cut, flipped and moved, numbers and lengths that lie, values of the wrong kind, and
things in its place that are no file."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors_file

# Lengths and numbers that no file of this size can have.
LIES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
# The same, and worse, as they stand in JSON or TOML.
NUMBERS = (
    *("0", "-1", "1", "-0.0", "1e308", "-1e308", "1e-308", "1e999", "NaN", "Infinity", "0.5", "4294967296"),
    *("2147483647", "1000000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "123456789012345678901234567890"),
)
DEEP = 100_000

Mutate = Callable[[bytes, random.Random], bytes]


def cut(content: bytes, rng: random.Random) -> bytes:
    """Ends early."""
    return content[: rng.randrange(len(content))]


def cut_near_the_end(content: bytes, rng: random.Random) -> bytes:
    """Lacks the last few bytes."""
    return content[: max(0, len(content) - rng.randint(1, 64))]


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits are flipped."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def flip_near_an_end(content: bytes, rng: random.Random) -> bytes:
    """A bit is flipped where headers and footers are."""
    found = bytearray(content)
    near = min(len(found), 256)
    at = rng.randrange(near)
    found[at if rng.random() < 0.5 else len(found) - 1 - at] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """A few bytes are replaced by others."""
    at = rng.randrange(len(content))
    length = rng.choice((1, 2, 4, 16))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return content[:at] + filling + content[at + length :]


def lie(content: bytes, rng: random.Random) -> bytes:
    """An integer somewhere is a length that cannot be."""
    width = rng.choice((4, 8))
    places = [0, len(content) - width, len(content) - 8, len(content) - 22 + 12, len(content) - 22 + 16]
    at = rng.choice(places) if rng.random() < 0.4 else rng.randrange(len(content))
    at = min(max(at, 0), max(0, len(content) - width))
    number = rng.choice(LIES) % (1 << (8 * width))
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def lie_as_varint(content: bytes, rng: random.Random) -> bytes:
    """A variable-length integer, as protobuf, Thrift and postcard have them, is a length that cannot be."""
    number, encoded = rng.choice(LIES), b""
    while True:
        number, low = number >> 7, number & 0x7F
        encoded += bytes([low | (0x80 if number else 0)])
        if not number:
            break
    at = rng.randrange(len(content))
    return content[:at] + encoded + content[at + rng.choice((1, len(encoded))) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A part is there twice."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randint(1, 4096))
    return content[:end] + content[start:end] + content[end:]


def remove(content: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randint(1, 1 + len(content) // 4) :]


def zero(content: bytes, rng: random.Random) -> bytes:
    """A page of zeros, as after a crash of the machine."""
    start = rng.randrange(len(content))
    length = min(len(content) - start, rng.choice((16, 512, 4096)))
    return content[:start] + bytes(length) + content[start + length :]


def append(content: bytes, rng: random.Random) -> bytes:
    """Something follows the end."""
    return content + rng.choice((b"\0", b"\n", b"}", rng.randbytes(rng.randint(1, 64)), content))


BYTES: tuple[Mutate, ...] = (
    *(cut, cut_near_the_end, flip, flip_near_an_end, overwrite, lie, lie_as_varint, repeat, remove, zero, append),
)


# Text.

_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_NO_STRINGS: tuple[Any, ...] = (
    *("", "\0", "../../x", "/", "nan", "x" * 70_000, "\ud800", "{{", "{% for"),
    *(None, [], {}, 0, True),
)
# Where one begins in a template.
_EXPRESSION = re.compile(rb"\{\{ ")
_STRING = re.compile(rb'"(?:[^"\\\n]|\\.)*"')


def lying_number(content: bytes, rng: random.Random) -> bytes:
    """A number in the text is another."""
    return _replace_one(content, _NUMBER, rng.choice(NUMBERS).encode(), rng)


def lying_string(content: bytes, rng: random.Random) -> bytes:
    """A string in the text is another, or no string."""
    return _replace_one(content, _STRING, json.dumps(rng.choice(_NO_STRINGS)).encode(), rng)


def deep(content: bytes, rng: random.Random) -> bytes:
    """A value in the text is nested without end."""
    opening = rng.choice((b"[", b'{"a":', b"(", b"{"))
    # In a string, or between a template's expressions, it would be a long text, which may take long.
    strings = [found.span() for found in _STRING.finditer(content)]
    numbers = [found.span() for found in _NUMBER.finditer(content)]
    numbers = [(start, end) for start, end in numbers if not any(left < start < right for left, right in strings)]
    expressions = [(at, at) for at in (found.end() for found in _EXPRESSION.finditer(content))]
    spans = [found for found in (strings, numbers, expressions) if found]
    if not spans:
        return cut(content, rng)
    start, end = rng.choice(rng.choice(spans))
    return content[:start] + opening * DEEP + content[end:]


def not_text(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are not UTF-8."""
    at = rng.randrange(len(content))
    return content[:at] + rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\0")) + content[at:]


def _replace_one(content: bytes, pattern: re.Pattern[bytes], by: bytes, rng: random.Random) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return content + by
    chosen = rng.choice(found)
    return content[: chosen.start()] + by + content[chosen.end() :]


TEXT: tuple[Mutate, ...] = (
    *(cut, flip, overwrite, repeat, remove, zero, append, lying_number, lying_string, deep, not_text),
)


# JSON.


def wrong_value(content: bytes, rng: random.Random) -> bytes:
    """One value of the document, at any depth, is of another kind or missing."""
    try:
        document = json.loads(content)
    except ValueError:
        # JSON lines: one of them.
        lines = content.splitlines(keepends=True)
        if len(lines) < 2:
            return cut(content, rng)
        at = rng.randrange(len(lines))
        return b"".join([*lines[:at], wrong_value(lines[at], rng), *lines[at + 1 :]])
    return json.dumps(_with_wrong_value(document, rng), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def _with_wrong_value(document: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            walk(value[key])

    walk(document)
    if not places:
        return None
    # Values that are not deep in a list come first: those of a vocabulary are all alike.
    rng.shuffle(places)
    parent, key = places[0] if rng.random() < 0.5 else min(places[:64], key=lambda place: isinstance(place[0], list))
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice((*_WRONG, [parent[key]]))
    return document


_WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e300, 2**31, 2**63, 2**64, -(2**63)),
    *("", "x", [], {}, [[]]),
)

JSON: tuple[Mutate, ...] = (*TEXT, wrong_value, wrong_value, wrong_value, wrong_value)


# safetensors.


def lying_header(content: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file parses, and is wrong."""
    header, data = safetensors_file.split(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    choice = rng.randrange(6)
    if choice == 0:
        entry["shape"] = [rng.choice(LIES) for _ in range(rng.randint(0, 4))]
    elif choice == 1:
        entry["shape"] = entry["shape"] + [rng.choice((0, 1, 2**32))]
    elif choice == 2:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(LIES)
    elif choice == 3:
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", ""))
    elif choice == 4:
        header[rng.choice(("x", "model." + name, name + "\0", ""))] = header.pop(name)
    else:
        del header[name]
    return safetensors_file.join(header, data)


def not_finite(content: bytes, rng: random.Random) -> bytes:
    """A value of a tensor is NaN or infinite."""
    header, data = safetensors_file.split(content)
    at = rng.randrange(max(1, len(data) // 4)) * 4
    value = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f"))
    return safetensors_file.join(header, data[:at] + value + data[at + 4 :])


SAFETENSORS: tuple[Mutate, ...] = (*BYTES, lying_header, lying_header, lying_header, not_finite)


# In the place of a file.

Place = Callable[[Path], None]


def empty(path: Path) -> None:
    """Empty."""
    path.write_bytes(b"")


def missing(path: Path) -> None:
    """Missing."""
    path.unlink()


def folder(path: Path) -> None:
    """A folder."""
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    """A pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.unlink()
    path.symlink_to("nothing")


def endless(path: Path) -> None:
    """A link to a device without an end."""
    path.unlink()
    path.symlink_to("/dev/zero")


def unreadable(path: Path) -> None:
    """A file that may not be read."""
    path.chmod(0)


PLACES: tuple[Place, ...] = (empty, missing, folder, fifo, loop, dangling, endless, unreadable)
