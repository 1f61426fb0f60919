"""The `lambda_*` keys of a LLaMA-Factory config, removed before LLaMA-Factory parses the rest."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
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


@dataclass(frozen=True)
class AdapterKeys:
    """Keys that turn LLaMA-Factory's LoRA into a λ-adapter.

    Attributes:
        depends_on_lambda: `lambda_adapter`.
        rank_per_dimension: `lambda_rank_per_dimension`; None is `lora_rank`, which is the rank of the shared part.
        has_alpha: whether the arguments have `lora_alpha`, whose default here is twice the rank per dimension.
    """

    depends_on_lambda: bool = False
    rank_per_dimension: int | None = None
    has_alpha: bool = False


#: Their keys, with the types of values.
_ADAPTER = {"lambda_adapter": "bool", "lambda_rank_per_dimension": "int | None"}


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


def adapter(args: Args, ours: dict[str, Any]) -> AdapterKeys:
    """Makes the adapter's keys from LLaMA-Factory's arguments and ours.

    Raises:
        ConfigError: If a value is of the wrong type, or a λ-adapter is asked for together with what excludes it.
    """
    for key, expected in _ADAPTER.items():
        if key in ours:
            _checked(key, expected, ours[key])
    depends_on_lambda, rank = ours.get("lambda_adapter", False), ours.get("lambda_rank_per_dimension")
    if not depends_on_lambda:
        if rank is not None:
            raise ConfigError("`lambda_rank_per_dimension` needs `lambda_adapter: true`: set it, or leave the key out.")
        return AdapterKeys()
    kind = _value(args, "finetuning_type") or "lora"
    if kind != "lora":
        raise ConfigError(f"`lambda_adapter` needs `finetuning_type: lora`, but it is {kind}.")
    if str(_value(args, "use_unsloth")).lower() == "true":
        raise ConfigError("`lambda_adapter` does not work with `use_unsloth`: leave one of them out.")
    return AdapterKeys(True, rank, _value(args, "lora_alpha") is not None)


def options(ours: dict[str, Any], **others: Any) -> ListwiseOptions:
    """Makes the options from our keys.

    Raises:
        ConfigError: If a key does not exist (the message suggests the closest one), or a value is invalid.
    """
    fields = _fields()
    known = [*fields, *_ADAPTER]
    for key in ours:
        if key not in known:
            if elsewhere := _ELSEWHERE.get(key.removeprefix("lambda_")):
                raise ConfigError(f"There is no key `{key}`: set {elsewhere}.")
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys are {', '.join(sorted(known))}."
            raise ConfigError(f"There is no key `{key}`: {hint}")
    expected = ListwiseOptions.__annotations__
    values = {fields[key]: _checked(key, expected[fields[key]], ours[key]) for key in ours if key in fields}
    return ListwiseOptions(**values, **others)


def _checked(key: str, expected: str, value: Any) -> Any:
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
