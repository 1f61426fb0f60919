"""Columns in which `datasets` stores JSON: objects whose keys or types differ from row to row (`datasets.Json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa


def holds_json(kind: pa.DataType) -> bool:
    """Whether values of a type contain JSON at any depth."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return bool(kind.extension_name == "arrow.json")
    return any(holds_json(kind.field(i).type) for i in range(kind.num_fields))


def with_ratings(table: pa.Table) -> pa.Table:
    """Returns a table whose `ratings`, if they are JSON, are structs of all dimensions; what a row lacks is null there.

    Raises:
        ConfigError: If they are not objects of numbers.
    """
    import pyarrow as pa

    if "ratings" not in table.column_names or not holds_json(table.schema.field("ratings").type):
        return table
    rows = [_read(value) for value in table.column("ratings").to_pylist()]
    lengths = pa.compute.list_value_length(table.column("completions")).to_pylist()
    if not all(isinstance(row, dict) for row in rows):
        return table  # Not structs, which is refused where they are read.
    names = sorted(set().union(*rows))
    missing = ([None] * length for length in lengths)
    filled = [{**dict.fromkeys(names, nothing), **row} for row, nothing in zip(rows, missing, strict=True)]
    try:
        ratings = pa.array(filled)
    except pa.ArrowException as error:
        raise ConfigError(f"`ratings` must have a list of numbers, or nulls, for each dimension: {error}.") from error
    return table.set_column(table.column_names.index("ratings"), "ratings", ratings)


def dimensions(table: pa.Table, format: str) -> list[str] | None:
    """Names of all dimensions, sorted, in the JSON of a table's records; None if its types name them, or a record has none.

    The library reads a stream once and has to know the dimensions before.
    """
    column = "rankings" if format == "rankings" else "completions"
    if format == "pairs" or column not in table.column_names or not holds_json(table.schema.field(column).type):
        return None
    names: set[str] = set()
    for row in table.column(column).to_pylist():
        names.update(_names(_read(row), format))
    return sorted(names) or None


def _names(row: Any, format: str) -> Iterator[str]:
    if format == "rankings":
        yield from row if isinstance(row, dict) else ()
        return
    for completion in row if isinstance(row, list) else ():
        completion = _read(completion)
        annotations = _read(completion.get("annotations")) if isinstance(completion, dict) else None
        if isinstance(annotations, dict):
            yield from annotations
        elif isinstance(annotations, list):
            entries = (_read(entry) for entry in annotations)
            yield from (entry["Type"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("Type"), str))


def _read(value: Any) -> Any:
    """A value whose text may be JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
