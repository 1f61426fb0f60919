"""The converter for LLaMA-Factory passes on what a record holds, or refuses it by name."""

import json
from types import SimpleNamespace

import pytest

from lambda_dpo import ConfigError, InvalidInputError
from lambda_dpo.factory.data import UltraFeedbackConverter
from lambda_dpo.records import ConvertOptions

TOOLS = [{"name": "weather", "parameters": {}}]


def converted(columns=None, **fields):
    attributes = {"dataset_name": "uf", "prompt": None, "response": None, "system": None, "tools": None, **(columns or {})}
    rated = [{"response": text, "annotations": {"h": {"Rating": rating}}} for text, rating in (("a", 1), ("b", 2))]
    converter = UltraFeedbackConverter(SimpleNamespace(**attributes), SimpleNamespace(), ConvertOptions())
    return converter({"instruction": "Q", "completions": rated, **fields})


def test_the_system_prompt_is_found_with_and_without_a_column_for_it():
    for found in (
        converted(system="S"),
        converted(system_prompt="S"),
        converted({"system": "s"}, s="S"),
    ):
        assert (found["_system"], [turn["content"] for turn in found["_prompt"]]) == ("S", ["Q"])
    with pytest.raises(InvalidInputError, match="are different system prompts"):
        converted(system="S", system_prompt="T")


def test_tools_are_json_as_llama_factory_expects():
    assert json.loads(converted(tools=TOOLS)["_tools"]) == TOOLS
    assert json.loads(converted({"tools": "t"}, t=json.dumps(TOOLS))["_tools"]) == TOOLS
    assert converted()["_tools"] == converted(tools=None)["_tools"] == ""


def test_what_its_templates_do_not_print_is_refused():
    turns = [{"role": "user", "content": "Q", "name": "Ada"}]
    with pytest.raises(ConfigError, match="Turn 0 of a prompt of uf has `name`"):
        converted(instruction=turns)
    with pytest.raises(InvalidInputError, match="`images` is not supported"):
        converted(images=["a.png"])
