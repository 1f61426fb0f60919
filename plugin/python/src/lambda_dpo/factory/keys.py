"""The `lambda_*` keys of a LLaMA-Factory config, removed before LLaMA-Factory parses the rest."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import yaml

from ..config import ListwiseOptions
from ..errors import ConfigError

PREF_LOSS = "lambda_dpo"

#: Options that are set by keys of LLaMA-Factory.
_ELSEWHERE = {
    "beta": "`pref_beta`",
    "max_length": "`cutoff_len`",
    "simpo_gamma": "`simpo_gamma`",
    "sft_weight": "`pref_ftx`",
    "data_format": "`formatting` in dataset_info.json",
}

Args = dict[str, Any] | list[str]


def _fields() -> dict[str, str]:
    """Maps keys to option names."""
    names = [field.name for field in dataclasses.fields(ListwiseOptions) if field.name not in _ELSEWHERE]
    return {name if name.startswith("lambda_") else f"lambda_{name}": name for name in names}


def split(args: Args) -> tuple[Args, dict[str, Any]]:
    """Splits the arguments into LLaMA-Factory's and ours."""
    if isinstance(args, dict):
        ours = {key: value for key, value in args.items() if key.startswith("lambda_")}
        return {key: value for key, value in args.items() if key not in ours}, ours
    rest: list[str] = []
    ours = {}
    words = iter(args)
    for word in words:
        if not word.startswith("--lambda_"):
            rest.append(word)
            continue
        key, has_value, value = word.removeprefix("--").partition("=")
        text = value if has_value else next(words, None)
        if text is None:
            raise ConfigError(f"--{key} has no value.")
        ours[key] = yaml.safe_load(text)
    return rest, ours


def pref_loss(args: Args) -> str | None:
    """The loss that the arguments ask for."""
    return _value(args, "pref_loss")


def refuse_label_smoothing(args: Args) -> None:
    """Names our key for `dpo_label_smoothing`, which LLaMA-Factory refuses for every loss but its own `sigmoid`.

    Raises:
        ConfigError: If the arguments have it.
    """
    if float(_value(args, "dpo_label_smoothing") or 0) != 0:
        raise ConfigError("`dpo_label_smoothing` belongs to `pref_loss: sigmoid`: set `lambda_label_smoothing` instead.")


def stage(args: Args) -> str | None:
    """The stage that the arguments ask for."""
    return _value(args, "stage")


def _value(args: Args, key: str) -> str | None:
    if isinstance(args, dict):
        return args.get(key)
    for at, word in enumerate(args):
        if word == f"--{key}" and at + 1 < len(args):
            return args[at + 1]
        if word.startswith(f"--{key}="):
            return word.partition("=")[2]
    return None


def options(ours: dict[str, Any], **others: Any) -> ListwiseOptions:
    """Makes the options from our keys.

    Raises:
        ConfigError: If a key does not exist (the message suggests the closest one), or a value is invalid.
    """
    fields = _fields()
    for key in ours:
        if key not in fields:
            if elsewhere := _ELSEWHERE.get(key.removeprefix("lambda_")):
                raise ConfigError(f"There is no key `{key}`: set {elsewhere}.")
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys are {', '.join(sorted(fields))}."
            raise ConfigError(f"There is no key `{key}`: {hint}")
    values = {fields[key]: _checked(key, fields[key], value) for key, value in ours.items()}
    return ListwiseOptions(**values, **others)


def _checked(key: str, name: str, value: Any) -> Any:
    expected = ListwiseOptions.__annotations__[name]
    kinds: dict[str, tuple[type, ...]] = {
        "float": (float, int),
        "int": (int,),
        "bool": (bool,),
        "str": (str,),
        "list": (list,),
        "dict": (dict,),
    }
    kind = expected.split(" | ")[0].split("[")[0]
    is_none = value is None and "None" in expected
    is_bool = isinstance(value, bool) and kind != "bool"
    if not is_none and (is_bool or not isinstance(value, kinds[kind])):
        raise ConfigError(f"`{key}` is {value!r}, but it must be of type {expected}.")
    return float(value) if kind == "float" and value is not None else value
