"""Makes PEFT know λ-adapters; `lambda_dpo` runs this when PEFT is imported, before or after it."""

from __future__ import annotations

from peft import PeftModel, PeftType
from peft.utils import register_peft_method

from .config import PEFT_TYPE, LambdaLoraConfig
from .model import LambdaLoraModel, set_lambda


def _add_peft_type() -> None:
    """Adds our name to the enum `PeftType`, of which PEFT asks that it has all methods' names."""
    member = str.__new__(PeftType, PEFT_TYPE)
    member._name_ = PEFT_TYPE
    member._value_ = PEFT_TYPE
    # As EnumType does for each member of a class body; before it is in the map, it may still be set.
    setattr(PeftType, PEFT_TYPE, member)
    PeftType._member_names_.append(PEFT_TYPE)
    PeftType._member_map_[PEFT_TYPE] = member
    PeftType._value2member_map_[PEFT_TYPE] = member


if PEFT_TYPE not in PeftType.__members__:
    _add_peft_type()
    # The prefix, part of the parameters' names, is LoRA's, as it is for AdaLoRA: the layers are the same.
    register_peft_method(name=PEFT_TYPE.lower(), config_cls=LambdaLoraConfig, model_cls=LambdaLoraModel, prefix="lora_")
    PeftModel.set_lambda = set_lambda
