"""The C function table of `plugin/include/lambda_dpo.h` in ctypes: constants, structs and functions.

A test compares every offset and argument with `schemas/abi-1.0.json`.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any

MAJOR, MINOR = 1, 0

STATUS_OK, STATUS_INVALID_ARGUMENT, STATUS_INVALID_DATA = 0, 1, 3
FORMATS = {"ultrafeedback": 0, "pairs": 1, "rankings": 3}
LAYOUTS = {"expanded": 0, "rows": 1, "packed": 2}
OBJECTIVES = {
    "listwise": 0,
    "plackett_luce": 2,
    "sigmoid": 3,
    "hinge": 4,
    "ipo": 5,
    "simpo": 6,
    "orpo": 7,
}
REDUCTIONS = {"sum": 0, "mean": 1}
SCHEDULE_UNIFORM_NORMALIZED, SCHEDULE_DIRICHLET, SCHEDULE_GAUSSIAN, SCHEDULE_GAUSSIAN_ABS = 0, 1, 2, 3
SCHEDULE_UNIMODAL, SCHEDULE_UNIMODAL_CYCLE, SCHEDULE_FIXED, SCHEDULE_TABLE = 4, 5, 6, 7
WANTS_HIDDEN, WANTS_LM_HEAD, WANTS_LOGITS, WANTS_SEQUENCE_LOG_PROBS = 1, 2, 4, 8


# ---- structs ----


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", DLDevice),
        ("ndim", c_int32),
        ("dtype", DLDataType),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("byte_offset", c_uint64),
    ]


class DLPackVersion(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32)]


DELETER = ctypes.CFUNCTYPE(None, c_void_p)


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("version", DLPackVersion),
        ("manager_ctx", c_void_p),
        ("deleter", DELETER),
        ("flags", c_uint64),
        ("dl_tensor", DLTensor),
    ]


class ArrowArrayStream(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("get_schema", "get_next", "get_last_error", "release", "private_data")]


class Str(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t)]


class Bytes(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t), ("capacity", c_size_t)]


class Sized(ctypes.Structure):
    """Struct whose first field is its own size in bytes."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class Error(Sized):
    _fields_ = [("struct_size", c_size_t), ("buffer", c_void_p), ("capacity", c_size_t), ("len", c_size_t)]


class BuildInfo(Sized):
    _fields_ = [("struct_size", c_size_t), ("version", Str), ("torch_version", Str)]


class ConvertOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("format", c_uint32),
        ("best_worst_pairs", c_uint32),
        ("dimensions", POINTER(Str)),
        ("num_dimensions", c_size_t),
        ("missing_rating", c_double),
        ("temperature", c_double),
        ("max_samples", c_uint64),
        ("exclude_sources", POINTER(Str)),
        ("num_exclude_sources", c_size_t),
        ("keep_all", c_uint32),
        ("reserved", c_uint32),
    ]


class TokenizeOptions(Sized):
    _fields_ = [("struct_size", c_size_t), ("cutoff_len", c_uint64), ("keep_all", c_uint32), ("reserved", c_uint32)]


class CollateOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("layout", c_uint32),
        ("max_tokens", c_uint64),
        ("pad_to_multiple_of", c_uint64),
        ("pad_token_id", c_int64),
    ]


class ScheduleOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_uint32),
        ("dimension", c_uint32),
        ("num_dimensions", c_size_t),
        ("alpha", c_double),
        ("weights", POINTER(c_double)),
        ("num_rows", c_size_t),
        ("probabilities", POINTER(c_double)),
    ]


class LossOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("objective", c_uint32),
        ("reduction", c_uint32),
        ("beta", c_double),
        ("label_smoothing", c_double),
        ("simpo_gamma", c_double),
        ("sft_weight", c_double),
        ("normalizer", c_double),
        ("logits_budget_bytes", c_uint64),
        ("paper_exact", c_uint32),
        ("wants", c_uint32),
    ]


BATCH_TENSORS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "labels",
    "prompt_ids",
    "sequence_ids",
    "target_positions",
    "target_ids",
    "target_sequences",
    "sequence_num_tokens",
    "sequence_prompts",
    "sequence_responses",
    "prompt_offsets",
    "sequence_index",
    "pi_target",
    "target_mask",
    "ranks",
    "lambda",
    "record_indices",
)
OUTPUT_TENSORS = (
    "loss",
    "token_log_probs",
    "sequence_log_probs",
    "rewards",
    "prompt_losses",
    "dimension_losses",
    "dimension_mask",
    "accuracies",
    "dimension_accuracies",
    "margins",
    "sft_losses",
)
GRADIENT_TENSORS = ("hidden", "lm_head", "logits", "sequence_log_probs")


class Batch(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        *((name, c_void_p) for name in BATCH_TENSORS),
        ("num_contributing", c_uint64),
    ]


class LossInputs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden", c_void_p),
        ("lm_head", c_void_p),
        ("logits", c_void_p),
        ("sequence_log_probs", c_void_p),
        ("target_positions", c_void_p),
        ("target_ids", c_void_p),
        ("target_sequences", c_void_p),
        ("num_sequences", c_uint64),
        ("sequence_num_tokens", c_void_p),
        ("reference_log_probs", c_void_p),
        ("prompt_offsets", c_void_p),
        ("sequence_index", c_void_p),
        ("pi_target", c_void_p),
        ("target_mask", c_void_p),
        ("ranks", c_void_p),
        ("lambda", c_void_p),
        ("cuda_stream", c_void_p),
    ]


class LossOutputs(Sized):
    _fields_ = [("struct_size", c_size_t), *((name, c_void_p) for name in OUTPUT_TENSORS)]


class LossGradients(Sized):
    _fields_ = [("struct_size", c_size_t), *((name, c_void_p) for name in GRADIENT_TENSORS)]


# ---- the table ----

_HANDLE = c_void_p
_STATUS = c_int32
_ERROR = POINTER(Error)
_TENSOR_OUT = POINTER(c_void_p)

#: Functions in the table's order: name, result, arguments. A function that returns a status also takes an error, last.
FUNCTIONS: list[tuple[str, Any, list[Any]]] = [
    ("build_info", _STATUS, [POINTER(BuildInfo)]),
    ("bytes_free", None, [POINTER(Bytes)]),
    ("convert_record", _STATUS, [Str, c_uint64, POINTER(ConvertOptions), POINTER(Bytes)]),
    ("reader_open", _STATUS, [POINTER(Str), c_size_t, POINTER(ConvertOptions), POINTER(_HANDLE)]),
    ("reader_open_arrow", _STATUS, [c_void_p, POINTER(ConvertOptions), POINTER(_HANDLE)]),
    ("reader_to_arrow", _STATUS, [_HANDLE, POINTER(ArrowArrayStream)]),
    ("reader_next", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("reader_report", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("reader_free", None, [_HANDLE]),
    ("tokenizer_open", _STATUS, [Str, Str, POINTER(_HANDLE)]),
    ("tokenizer_info", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("tokenizer_render", _STATUS, [_HANDLE, Str, c_uint32, POINTER(Bytes)]),
    ("tokenizer_encode", _STATUS, [_HANDLE, Str, _TENSOR_OUT]),
    ("tokenizer_decode", _STATUS, [_HANDLE, c_void_p, c_uint32, POINTER(Bytes)]),
    ("tokenizer_free", None, [_HANDLE]),
    ("decode_stream_new", _STATUS, [_HANDLE, c_uint32, POINTER(_HANDLE)]),
    ("decode_stream_step", _STATUS, [_HANDLE, c_int64, POINTER(Bytes)]),
    ("decode_stream_finish", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("decode_stream_free", None, [_HANDLE]),
    ("tokenize", _STATUS, [_HANDLE, Str, POINTER(TokenizeOptions), POINTER(_HANDLE)]),
    ("tokenized_sample_new", _STATUS, [Str, POINTER(_HANDLE)]),
    ("tokenized_sample_tokens", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("tokenized_sample_free", None, [_HANDLE]),
    (
        "collate",
        _STATUS,
        [POINTER(_HANDLE), c_size_t, POINTER(c_double), POINTER(CollateOptions), POINTER(Batch)],
    ),
    ("batch_free", None, [POINTER(Batch)]),
    ("dataset_open", _STATUS, [POINTER(Str), c_size_t, _HANDLE, c_void_p, POINTER(_HANDLE)]),
    ("dataset_open_arrow", _STATUS, [c_void_p, _HANDLE, c_void_p, POINTER(_HANDLE)]),
    ("dataset_len", c_uint64, [_HANDLE]),
    ("dataset_info", _STATUS, [_HANDLE, POINTER(Bytes)]),
    ("dataset_samples", _STATUS, [_HANDLE, _TENSOR_OUT]),
    (
        "dataset_batch",
        _STATUS,
        [_HANDLE, POINTER(c_uint64), c_size_t, POINTER(c_double), POINTER(CollateOptions), POINTER(Batch)],
    ),
    (
        "dataset_prefetch",
        _STATUS,
        [_HANDLE, POINTER(c_uint64), c_size_t, POINTER(c_double), POINTER(CollateOptions)],
    ),
    ("dataset_free", None, [_HANDLE]),
    ("schedule_new", _STATUS, [POINTER(ScheduleOptions), POINTER(_HANDLE)]),
    ("schedule_draw_instance", _STATUS, [_HANDLE, c_uint64, c_uint64, c_uint64, POINTER(c_double)]),
    ("schedule_draw_step", _STATUS, [_HANDLE, c_uint64, c_uint64, POINTER(c_double)]),
    ("schedule_free", None, [_HANDLE]),
    ("renormalize_lambda", _STATUS, [c_void_p, c_void_p, c_void_p, _TENSOR_OUT]),
    ("log_probs", _STATUS, [POINTER(LossInputs), POINTER(LossOptions), _TENSOR_OUT, _TENSOR_OUT]),
    ("loss_forward", _STATUS, [POINTER(LossInputs), POINTER(LossOptions), POINTER(LossOutputs), POINTER(_HANDLE)]),
    ("loss_backward", _STATUS, [_HANDLE, POINTER(LossInputs), c_double, POINTER(LossGradients)]),
    ("loss_context_free", None, [_HANDLE]),
]


def _prototype(result: Any, arguments: list[Any]) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments, *([_ERROR] if result is _STATUS else []))


class Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("major", c_uint32),
        ("minor", c_uint32),
        *((name, _prototype(result, arguments)) for name, result, arguments in FUNCTIONS),
    ]
