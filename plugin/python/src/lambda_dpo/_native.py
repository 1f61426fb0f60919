"""Loads and calls the library, and passes text, handles, tensors and Arrow streams to and from it."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterable
from ctypes import POINTER, c_double, c_int32, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import torch  # Imported first, because the library uses the libtorch that torch loads.

from . import _abi, _dlpack
from .errors import InvalidInputError, LibraryError, PluginError


def library_path() -> Path:
    """Path of liblambda_dpo.so: `LAMBDA_DPO_PLUGIN` if set, else the one in the package.

    Raises:
        LibraryError: If the file does not exist.
    """
    named = os.environ.get("LAMBDA_DPO_PLUGIN")
    path = Path(named) if named else Path(__file__).parent / "liblambda_dpo.so"
    if not path.is_file():
        way_out = "unset LAMBDA_DPO_PLUGIN" if named else "install the package again with `pip install ./plugin/python`"
        raise LibraryError(f"The library {path} does not exist: {way_out}.")
    return path


def _check_torch(built_for: str) -> None:
    found = torch.__version__.split("+")[0]
    if found != built_for:
        raise LibraryError(
            f"lambda_dpo was built for torch {built_for}, but this is torch {found}: install torch=={built_for}, or "
            "rebuild lambda_dpo in this environment."
        )


@functools.cache
def api() -> _abi.Api:
    """Returns the function table. The library is loaded on the first call and never unloaded.

    Raises:
        LibraryError: If the library is missing, or was built for another version of torch.
    """
    path = library_path()
    built_for = path.with_name("torch_version")
    if built_for.exists():  # Before the library is loaded: with the wrong libtorch, loading it may crash.
        _check_torch(built_for.read_text().strip())
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(
            f"{path} cannot be loaded with torch {torch.__version__}: {error}; it only works with the torch that it "
            "was built for."
        ) from error
    get_api = library.lambda_dpo_get_api
    get_api.restype, get_api.argtypes = c_int32, [c_uint32, c_uint32, POINTER(POINTER(_abi.Api)), POINTER(_abi.Error)]
    table = POINTER(_abi.Api)()
    _checked(lambda error: get_api(_abi.MAJOR, _abi.MINOR, ctypes.byref(table), error))
    opened: _abi.Api = table.contents
    if opened.struct_size < ctypes.sizeof(_abi.Api):
        raise LibraryError(f"{path} is older than this package: reinstall both.")
    info = _abi.BuildInfo()
    _checked(lambda error: opened.build_info(ctypes.byref(info), error))
    _check_torch(_text(info.torch_version))
    return opened


_MESSAGE_CAPACITY = 1 << 16


def _checked(function: Callable[[Any], int]) -> None:
    buffer = ctypes.create_string_buffer(_MESSAGE_CAPACITY)
    error = _abi.Error(buffer=ctypes.addressof(buffer), capacity=_MESSAGE_CAPACITY)
    status = function(ctypes.byref(error))
    if status != _abi.STATUS_OK:
        message = buffer.raw[: min(error.len, _MESSAGE_CAPACITY)].decode(errors="replace")
        is_input = status in (_abi.STATUS_INVALID_ARGUMENT, _abi.STATUS_INVALID_DATA)
        raise (InvalidInputError if is_input else PluginError)(status, message)


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status.

    Raises:
        PluginError: If the status is not OK, with the library's message.
    """
    function = getattr(api(), name)
    _checked(lambda error: function(*arguments, error))


# ---- text and handles ----


class Text:
    """A `Str`, together with the bytes it points to."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        self.str = _abi.Str(ctypes.cast(ctypes.c_char_p(self._bytes), c_void_p), len(self._bytes))


class Texts:
    """An array of `Str`, together with the bytes they point to; None becomes NULL."""

    def __init__(self, texts: Iterable[str] | None) -> None:
        self._texts = [Text(text) for text in texts or []]
        self.len = len(self._texts)
        self.array = (_abi.Str * self.len)(*(text.str for text in self._texts)) if texts is not None and self.len else None


def _text(borrowed: _abi.Str) -> str:
    return ctypes.string_at(borrowed.data, borrowed.len).decode() if borrowed.len else ""


def take_text(bytes_: _abi.Bytes) -> str | None:
    """Copies text that the library returned and frees the original; returns None if it is empty."""
    try:
        return ctypes.string_at(bytes_.data, bytes_.len).decode() if bytes_.data else None
    finally:
        api().bytes_free(ctypes.byref(bytes_))


class Handle:
    """Opaque handle, freed with this object. It is only valid in this process and cannot be pickled."""

    def __init__(self, raw: int, free: str) -> None:
        self.raw = raw
        self._free = getattr(api(), free)

    def __del__(self) -> None:
        if self.raw:
            self._free(self.raw)
            self.raw = 0

    def __reduce__(self) -> Any:
        raise TypeError("a handle of liblambda_dpo is only valid in its own process and cannot be pickled")


def make(name: str, free: str, *arguments: Any) -> Handle | None:
    """Calls a function whose last argument receives a handle; returns None if the handle is NULL."""
    raw = c_void_p()
    call(name, *arguments, ctypes.byref(raw))
    return Handle(raw.value, free) if raw.value else None


# ---- tensors ----


class Lent:
    """Tensors lent to the library for a call: not copied, and alive as long as this object."""

    def __init__(self) -> None:
        self._alive: list[Any] = []

    def pointer(self, tensor: torch.Tensor | None) -> int | None:
        """Returns the tensor as `DLManagedTensorVersioned *`; NULL for None."""
        if tensor is None:
            return None
        pointer, alive = _dlpack.export(tensor)
        self._alive.append(alive)
        return pointer


def take_tensor(pointer: int | None) -> torch.Tensor | None:
    """Takes ownership of a tensor that the library returned, without a copy; returns None for NULL."""
    return _dlpack.take(pointer) if pointer else None


def take_tensors(struct: _abi.Sized, names: Iterable[str]) -> dict[str, torch.Tensor | None]:
    """Takes ownership of the named tensors of a struct."""
    return {name: take_tensor(getattr(struct, name)) for name in names}


def doubles(values: Iterable[float]) -> Any:
    """Returns a C array of doubles."""
    listed = list(values)
    return (c_double * len(listed))(*listed)


def handles(given: Iterable[Handle]) -> Any:
    """Returns a C array of handles."""
    listed = [handle.raw for handle in given]
    return (c_void_p * len(listed))(*listed)


# ---- Arrow ----


def arrow_stream_pointer(capsule: Any) -> int:
    """Returns the struct in a capsule of `__arrow_c_stream__`; the library takes ownership of the stream."""
    return _dlpack.capsule_pointer(capsule, b"arrow_array_stream")
