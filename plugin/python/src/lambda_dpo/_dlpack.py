"""Tensors as DLPack 1.x structs, in which the library takes and returns them, without copies.

torch 2.8 has only DLPack 0.8. There, a lent tensor gets a 1.x struct here, and the library makes the struct of a returned
one around the one of 0.8 (plugin/abi/src/versioned.h).
"""

from __future__ import annotations

import ctypes
from ctypes import c_void_p
from typing import Any

import torch.utils.dlpack

from . import _abi

_python = ctypes.pythonapi
_python.PyCapsule_GetPointer.restype = c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [c_void_p, ctypes.c_char_p, c_void_p]
_python.PyCapsule_IsValid.restype = ctypes.c_int
_python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Unversioned(ctypes.Structure):
    """`DLManagedTensor` of DLPack 0.8."""

    _fields_ = [("dl_tensor", _abi.DLTensor), ("manager_ctx", c_void_p), ("deleter", _abi.DELETER)]


_IS_VERSIONED = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)
_NAME = b"dltensor_versioned" if _IS_VERSIONED else b"dltensor"
_STRUCT = _abi.DLManagedTensorVersioned if _IS_VERSIONED else _Unversioned


def capsule_pointer(capsule: Any, name: bytes) -> int:
    """Returns what a capsule of this name holds.

    Raises:
        ValueError: If it has another name.
    """
    pointer: int = _python.PyCapsule_GetPointer(capsule, name)
    return pointer


def export(tensor: torch.Tensor) -> tuple[int, Any]:
    """Returns the tensor as `DLManagedTensorVersioned *`, for reading only, and what must live as long as it is used."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if _IS_VERSIONED:
        capsule = plain.__dlpack__(max_version=(1, 0))
        return capsule_pointer(capsule, _NAME), capsule
    capsule = plain.__dlpack__()
    unversioned = _Unversioned.from_address(capsule_pointer(capsule, _NAME))
    versioned = _abi.DLManagedTensorVersioned(version=(1, 0), dl_tensor=unversioned.dl_tensor)
    return ctypes.addressof(versioned), (capsule, versioned)


def take(pointer: int) -> torch.Tensor:
    """Takes ownership of a `DLManagedTensorVersioned *` that the library returned."""
    if not _IS_VERSIONED:
        pointer = _unwrap(pointer)
    # torch renames the capsule when it takes ownership; if it fails before that, the tensor must be freed here.
    capsule = _python.PyCapsule_New(pointer, _NAME, None)
    try:
        return torch.utils.dlpack.from_dlpack(capsule)
    finally:
        if _python.PyCapsule_IsValid(capsule, _NAME):
            _STRUCT.from_address(pointer).deleter(pointer)


def _unwrap(pointer: int) -> int:
    """Frees the struct of DLPack 1.x that the library made around one of 0.8, and returns that one."""
    versioned = _abi.DLManagedTensorVersioned.from_address(pointer)
    unversioned: int = versioned.manager_ctx
    versioned.manager_ctx = None
    versioned.deleter(pointer)
    return unversioned
