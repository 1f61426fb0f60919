"""The converter for LLaMA-Factory passes on what a record holds, or refuses it by name."""

import json
from types import SimpleNamespace

import pytest

from lambda_dpo import ConfigError, InvalidInputError
from lambda_dpo.factory.data import RankingsConverter, UltraFeedbackConverter, _places
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


def converted_ranking(columns=None, **fields):
    attributes = {"dataset_name": "r", "prompt": None, "response": None, "system": None, "tools": None, **(columns or {})}
    converter = RankingsConverter(SimpleNamespace(**attributes), SimpleNamespace(), ConvertOptions(format="rankings"))
    return converter({"prompt": "Q", "responses": ["a", "b", "c"], "rankings": {"h": [2, 1, 2], "g": None}, **fields})


def test_rankings_are_read_from_their_columns():
    found = converted_ranking(system="S")
    assert (found["_system"], [turn["content"] for turn in found["_prompt"]]) == ("S", ["Q"])
    assert [turn["content"] for turn in found["_response"]] == ["a", "b", "c"]
    assert (found["_dimensions"], found["_ratings"]) == (["g", "h"], [[None] * 3, [1, 2, 1]])
    other = converted_ranking({"prompt": "q", "response": "answers"}, q="Z", answers=["x", "y", "z"])
    assert ([turn["content"] for turn in other["_prompt"]], other["_response"][2]["content"]) == (["Z"], "z")
    with pytest.raises(InvalidInputError, match="`rankings.h` has rank 3 but no rank 2"):
        converted_ranking(rankings={"h": [1, 3, 3]})
    converter = RankingsConverter(
        SimpleNamespace(dataset_name="r", prompt=None, response=None), SimpleNamespace(), ConvertOptions(format="rankings")
    )
    with pytest.raises(ConfigError, match="The dataset r has the columns prompt, responses: set `prompt`"):
        converter({"prompt": "Q", "responses": ["a"]})


def test_places_are_those_of_the_library():
    assert _places([1.0, 0.0, 0.0, 0.0], [9, 2, 3, 2]) == [1, 3, 2, 3]
    assert _places([0.2, 0.5, 0.3], [9, None, 1]) == [3, 1, 2]
    assert _places([0.5, None, 0.5], [1, None, 1]) == [1, 0, 1]
    assert _places([None, None], [1, 2]) == [0, 0]
