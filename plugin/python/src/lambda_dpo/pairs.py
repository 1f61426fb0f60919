"""Pairs in the columns of TRL's preference datasets: which they are, and where their prompts are.

TRL has four forms: `prompt`, `chosen` and `rejected`, as texts or as lists of messages, and the same without
`prompt`, which is then what `chosen` and `rejected` begin with in common. The library itself finds the prompt in messages; this
module finds it in texts, and refuses mixtures of the forms. Texts are the turns of a user and of the assistant, to
which the chat template is applied; TRL applies none to them.

A pair is a sample with N = 2 responses and the target (1, 0), chosen before rejected, in each of its dimensions: one,
`preference`, unless the options name others. With a target of (1, 0), λ-DPO's listwise loss is DPO's, −log σ(Δr).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

#: The dimension of pairs for which the options name none.
PREFERENCE = "preference"

_ANSWERS = ("chosen", "rejected")
#: Columns of records with several rated or ranked answers.
_SEVERAL = ("completions", "responses")


def format_of(columns: Sequence[str], given: str | None) -> str:
    """Returns the format of a dataset's records: the one that is given, or the one that its columns tell.

    Raises:
        ConfigError: If the columns could be either of two formats, or only half of a pair.
    """
    if given is not None:
        return given
    present = [name for name in _ANSWERS if name in columns]
    several = [name for name in _SEVERAL if name in columns]
    if not present:
        return "ultrafeedback"
    if several:
        raise ConfigError(
            f"The dataset has `{present[0]}` and `{several[0]}`: set data_format to say which of them are the answers "
            "(pairs, ultrafeedback or rankings)."
        )
    if len(present) < len(_ANSWERS):
        (missing,) = set(_ANSWERS) - set(present)
        raise ConfigError(f"The dataset has `{present[0]}` but no `{missing}`: a pair needs both.")
    return "pairs"


def with_prompt(record: Mapping[str, Any], index: int = 0) -> Mapping[str, Any]:
    """Returns a record whose prompt the library finds: a pair of texts without one is split where they differ.

    Raises:
        ConfigError: If the pair mixes texts and messages, or its texts have no beginning in common.
    """
    _refuse_mixture({name: _kind(record[name]) for name in ("prompt", *_ANSWERS) if record.get(name) is not None})
    chosen, rejected = (record.get(name) for name in _ANSWERS)
    if record.get("prompt") is not None or not isinstance(chosen, str) or not isinstance(rejected, str):
        return record
    if any(record.get(name) for name in ("messages", "conversations")):
        return record
    length = _prompt_length(chosen, rejected)
    if length < 1:
        raise ConfigError(
            f"record {index}: `chosen` and `rejected` are texts that begin differently, so they hold no prompt: add a "
            "column `prompt`."
        )
    return {**record, "prompt": chosen[:length], "chosen": chosen[length:], "rejected": rejected[length:]}


def has_implicit_texts(columns: Mapping[str, pa.DataType]) -> bool:
    """Whether the columns are pairs of texts without a column for their prompt.

    Raises:
        ConfigError: If they mix texts and messages.
    """
    import pyarrow as pa

    def kind(column: pa.DataType) -> str:
        is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        return "texts" if any(check(column) for check in is_text) else "messages"

    kinds = {
        name: kind(columns[name])
        for name in ("prompt", *_ANSWERS)
        if name in columns and not pa.types.is_null(columns[name])
    }
    _refuse_mixture(kinds)
    has_prompt = any(name in columns for name in ("prompt", "messages", "conversations"))
    return not has_prompt and kinds.get("chosen") == "texts"


def with_prompts(table: pa.Table) -> pa.Table:
    """Returns a table of pairs whose prompts the library finds: pairs of texts without one are split where they differ.

    Raises:
        ConfigError: As `with_prompt`.
    """
    import pyarrow as pa

    if not has_implicit_texts({field.name: field.type for field in table.schema}):
        return table
    texts = zip(*(table.column(name).to_pylist() for name in _ANSWERS), strict=True)
    rows = [with_prompt(dict(zip(_ANSWERS, row, strict=True)), index) for index, row in enumerate(texts)]
    split = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in ("prompt", *_ANSWERS)}
    table = table.drop_columns(list(_ANSWERS))
    for name, column in split.items():
        table = table.append_column(name, column)
    return table


def in_dimensions(sample: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Returns the sample of a pair with its preference in each of the dimensions `names`."""
    if names is None:
        return sample
    rows = {name: sample[name] * len(names) for name in ("ratings", "pi_target")}
    return {**sample, "dimensions": list(names), **rows}


def in_dimensions_of(table: pa.Table, names: Sequence[str] | None) -> pa.Table:
    """Returns a table of samples of pairs with their preference in each of the dimensions `names`."""
    import pyarrow as pa

    if names is None:
        return table
    one = in_dimensions({"ratings": [[None, None]], "pi_target": [[1.0, 0.0]]}, names)
    for name, value in one.items():
        at = table.column_names.index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array([value] * table.num_rows, field.type))
    return table


def _prompt_length(chosen: str, rejected: str) -> int:
    """Number of characters that two texts have in common as their prompt: `trl.extract_prompt`'s rule.

    A space before the first difference belongs to the answers; if one text ends before they differ, so does its last
    character.
    """
    common = len(os.path.commonprefix([chosen, rejected]))
    if common == min(len(chosen), len(rejected)):
        return common - 1
    return common - 1 if chosen[:common].endswith(" ") else common


def _kind(value: Any) -> str:
    return "texts" if isinstance(value, str) else "messages"


def _refuse_mixture(kinds: Mapping[str, str]) -> None:
    """Refuses answers of two kinds, and answers that are texts after a prompt of messages."""
    chosen, rejected = (kinds.get(name) for name in _ANSWERS)
    if chosen is not None and rejected is not None and chosen != rejected:
        raise ConfigError(f"`chosen` holds {chosen}, but `rejected` {rejected}: write both in the same form.")
    if kinds.get("prompt") == "messages" and chosen == "texts":
        raise ConfigError(
            "`prompt` holds messages, but `chosen` and `rejected` texts: write the answers as messages too, or the "
            "prompt as a text."
        )
