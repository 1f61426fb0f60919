"""Sees at once what happens in a few folders: inotify, through the C library."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_NONBLOCK = os.O_NONBLOCK
_HEADER = struct.Struct("iIII")
_KINDS = {_MODIFY: "modify", _MOVED_FROM: "gone", _MOVED_TO: "appear", _CREATE: "appear", _DELETE: "gone"}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Event:
    """Something that happened to a name in a folder."""

    folder: Path
    name: str
    kind: str  # "appear", "gone" or "modify"
    time: float


class Watch:
    """Watches folders, which must exist."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._fd: int = _libc.inotify_init1(_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot be used")
        self._folders: dict[int, Path] = {}
        for folder in folders:
            number = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
            if number < 0:
                raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")
            self._folders[number] = folder

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, seconds: float, also: int | None = None) -> list[Event]:
        """The events of the next moment in which there are any; none after `seconds`, or as soon as the descriptor
        `also` can be read."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if also is not None:
            poll.register(also, select.POLLIN)
        if not any(number == self._fd for number, _ in poll.poll(max(0.0, seconds) * 1000)):
            return []
        now = monotonic()
        try:
            content = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(content):
            number, mask, _, length = _HEADER.unpack_from(content, at)
            name = os.fsdecode(content[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0"))
            at += _HEADER.size + length
            kind = next((kind for bit, kind in _KINDS.items() if mask & bit), None)
            if kind is not None and number in self._folders:
                events.append(Event(self._folders[number], name, kind, now))
        return events
