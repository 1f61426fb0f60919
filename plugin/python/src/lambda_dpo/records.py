"""Stages 1 and 2: converts records to samples, one by one as dicts, or in bulk as Arrow tables and datasets.

A *record* of the format `ultrafeedback` has its schema: `instruction` (or `prompt`: a text or messages) and
`completions`, each with `response` and `annotations` {dimension: {"Rating": …}}; or it has the columns `prompt`,
`completions` (texts) and `ratings` ({dimension: [a number or null for each completion]}). One of the format `rankings`
has `prompt`, `responses` (texts or messages) and `rankings` ({dimension: [a rank or null for each response]}; 1 is best,
equal ranks tie). One of the format `pairs` has `prompt`, `chosen` and `rejected` (pairs.py). A `system` prompt and
`tools` beside them are used too.
A *sample* has `prompt`, `responses`, `dimensions`, `ratings` and `pi_target` (`[M][N]`, null if missing or masked),
`record`, its index, and `tools`, if the record has any.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import _abi, _native, json_columns, pairs
from .errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertOptions:
    """How ratings or rankings become target distributions.

    Attributes:
        dimensions: names in order; None takes all names that occur in the records, sorted. A pair has its preference
            in each of them; None is one, "preference".
        missing_rating: value used for a missing rating; None leaves the response out of that dimension.
        temperature: temperature of the softmax over ratings (13).
        max_samples: maximum number of records to read.
        exclude_sources: records whose `source` is one of these are left out.
        format: "ultrafeedback", "pairs" or "rankings". With P places, a rank counts as a rating of P + 1 − rank. A
            pair has no ratings, but the target (1, 0) over (chosen, rejected).
    """

    dimensions: Sequence[str] | None = None
    missing_rating: float | None = None
    temperature: float = 1.0
    max_samples: int | None = None
    exclude_sources: Sequence[str] = field(default_factory=tuple)
    format: str = "ultrafeedback"

    def __post_init__(self) -> None:
        if self.format not in _abi.FORMATS:
            *others, last = _abi.FORMATS
            raise ConfigError(f"format is {self.format!r}, but it must be {', '.join(others)} or {last}.")
        unused = (("missing_rating", self.missing_rating, None), ("temperature", self.temperature, 1.0))
        for name, value, default in unused if self.format == "pairs" else ():
            if value != default:
                raise ConfigError(f"{name} is {value}, but pairs have no ratings: leave it out.")

    def native(self) -> _abi.ConvertOptions:
        """Returns the options as a struct of the library."""
        dimensions = _native.Texts(None if self.dimensions is None else list(self.dimensions))
        sources = _native.Texts(list(self.exclude_sources))
        options = _abi.ConvertOptions(
            format=_abi.FORMATS[self.format],
            missing_rating=math.nan if self.missing_rating is None else self.missing_rating,
            temperature=self.temperature,
            max_samples=self.max_samples or 0,
            num_dimensions=dimensions.len,
            num_exclude_sources=sources.len,
        )
        if dimensions.array is not None:
            options.dimensions = dimensions.array
        if sources.array is not None:
            options.exclude_sources = sources.array
        options.kept = (dimensions, sources)
        return options


_Table = TypeVar("_Table", "datasets.Dataset", "pa.Table")


@overload
def convert(records: Mapping[str, Any], options: ConvertOptions = ...) -> dict[str, Any] | None: ...
@overload
def convert(records: Sequence[Mapping[str, Any]], options: ConvertOptions = ...) -> list[dict[str, Any]]: ...
@overload
def convert(records: _Table, options: ConvertOptions = ...) -> _Table: ...


def convert(records: Any, options: ConvertOptions = ConvertOptions()) -> Any:
    """Converts a record, a list of records, a `datasets.Dataset` or a `pyarrow.Table` to samples.

    A single record that is left out becomes None. Tables and datasets are passed as Arrow streams, without a Python
    loop and without copies of what is not converted.

    Raises:
        InvalidInputError: If a record is invalid; the message names its index.
    """
    if isinstance(records, Mapping):
        return _convert_one(records, 0, options, options.native())
    if hasattr(records, "__arrow_c_stream__"):
        return _convert_table(records, options)
    if hasattr(records, "with_format") and hasattr(records, "data"):
        import datasets
        import pyarrow as pa

        rows = records.with_format("arrow")[:]  # Follows the dataset's indices, if it has been selected or shuffled.
        assert isinstance(rows, pa.Table)
        return datasets.Dataset(_convert_table(rows, options))
    if isinstance(records, Sequence):
        native = options.native()
        converted = (_convert_one(record, index, options, native) for index, record in enumerate(records))
        return [sample for sample in converted if sample is not None]
    raise TypeError(f"convert takes a dict, a list of dicts, a Dataset or an Arrow table, not {type(records).__name__}.")


def _convert_one(
    record: Mapping[str, Any], index: int, options: ConvertOptions, native: _abi.ConvertOptions
) -> dict[str, Any] | None:
    if options.format == "ultrafeedback":
        record = _rated(record)
    elif options.format == "pairs":
        record = pairs.with_prompt(record, index)
    text = _native.Text(_json(record))
    sample = _abi.Bytes()
    _native.call("convert_record", text.str, index, native, ctypes.byref(sample))
    taken = _native.take_text(sample)
    converted: dict[str, Any] | None = json.loads(taken) if taken else None
    if converted is not None and options.format == "pairs":
        return pairs.in_dimensions(converted, options.dimensions)
    return converted


def _json(record: Mapping[str, Any]) -> str:
    """Writes a record as JSON, with NumPy's numbers and arrays as Python's."""
    try:
        return json.dumps(record, default=_plain)
    except (TypeError, ValueError):
        # The library names such a field if it needs it, and counts it among those without effect if not.
        named = {name: value if _is_json(value) else {"type": type(value).__name__} for name, value in record.items()}
        return json.dumps(named, default=_plain)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # A NumPy number or array, or a tensor.
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _rated(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Moves a record's `ratings` into its completions, as in UltraFeedback's schema."""
    ratings = record.get("ratings")
    if not isinstance(ratings, Mapping):
        return record
    texts = record["completions"]
    for name, values in ratings.items():
        if len(values) != len(texts):
            raise ConfigError(f"`ratings.{name}` has {len(values)} numbers for {len(texts)} completions.")
    completions = [
        {"response": text, "annotations": {name: {"Rating": values[i]} for name, values in ratings.items()}}
        for i, text in enumerate(texts)
    ]
    return {**{key: value for key, value in record.items() if key != "ratings"}, "completions": completions}


def _convert_table(table: Any, options: ConvertOptions) -> pa.Table:
    import pyarrow as pa

    if isinstance(table, pa.Table) and options.format == "ultrafeedback":
        table = _rated_table(json_columns.with_ratings(table))
    elif isinstance(table, pa.Table) and options.format == "pairs":
        table = pairs.with_prompts(table)
    if isinstance(table, pa.Table) and options.dimensions is None:
        options = replace(options, dimensions=json_columns.dimensions(table, options.format))
    capsule = table.__arrow_c_stream__()
    native = options.native()
    reader = _native.make("reader_open_arrow", "reader_free", _native.arrow_stream_pointer(capsule), native)
    assert reader is not None
    stream = _abi.ArrowArrayStream()
    _native.call("reader_to_arrow", reader.raw, ctypes.byref(stream))
    try:
        samples = pa.RecordBatchReader._import_from_c(ctypes.addressof(stream)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(_abi.STATUS_INVALID_DATA, _sentence(error)) from error
    _report(reader)
    if options.format == "pairs":
        samples = pairs.in_dimensions_of(samples, options.dimensions)
    # The columns of a table without batches have no chunks, which `datasets` does not support.
    return samples if samples.num_rows else samples.schema.empty_table()


def _report(reader: Any) -> None:
    """Logs which fields of the records have no effect, and which ratings are missing."""
    counts = _abi.Bytes()
    _native.call("reader_report", reader.raw, ctypes.byref(counts))
    report = json.loads(_native.take_text(counts) or "{}")
    if fields := report.get("ignored_fields"):
        _logger.warning("Fields of the records without effect: %s.", ", ".join(fields))
    for kind, missing in report.get("missing_ratings", {}).items():
        _logger.warning(
            "%d ratings are missing (%s, first in record %d).", missing["count"], kind, missing["first_record"]
        )


def _sentence(error: Exception) -> str:
    """Message of the library in an Arrow error, without the details that Arrow appends."""
    return str(error).split(". Detail:")[0]


def _rated_table(table: pa.Table) -> pa.Table:
    """Nests `completions` and `ratings` as UltraFeedback does; the arrays are put into structs, not copied."""
    import pyarrow as pa

    if "ratings" not in table.column_names:
        return table
    texts = table.column("completions").combine_chunks()
    ratings = table.column("ratings").combine_chunks()
    if not pa.types.is_struct(ratings.type):
        raise ConfigError("`ratings` must be a dict of dimensions, each with a number or null for every completion.")
    names = [entry.name for entry in ratings.type]
    lengths = texts.value_lengths()
    annotations = []
    for name in names:
        column = ratings.field(name)
        if not pa.types.is_list(column.type) or not column.value_lengths().equals(lengths):
            raise ConfigError(f"`ratings.{name}` must have one number, or null, for every completion of its row.")
        annotations.append(pa.StructArray.from_arrays([column.flatten()], ["Rating"]))
    completions = pa.StructArray.from_arrays(
        [texts.flatten(), pa.StructArray.from_arrays(annotations, names)], ["response", "annotations"]
    )
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pa.compute.cumulative_sum(lengths).cast(pa.int32())])
    nested = pa.ListArray.from_arrays(offsets, completions)
    kept = table.drop_columns(["completions", "ratings"])
    return kept.append_column("completions", nested)
