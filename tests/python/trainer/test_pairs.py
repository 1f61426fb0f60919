"""Pairs as TRL's users have them: explicit and implicit prompts, texts and messages, dimensions, what is refused."""

import json
import logging

import datasets
import pyarrow as pa
import pytest
import torch
from test_trainer import losses, trained
from tiny import pairs, rated, records

from lambda_dpo import ConfigError, ConvertOptions, InvalidInputError, LambdaLoraConfig, convert

PAIRS = ConvertOptions(format="pairs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))


def turn(role, content):
    return {"role": role, "content": content}


def messages(rows):
    """Pairs of texts as conversations."""
    return [
        {
            "prompt": [turn("user", row["prompt"])],
            **{name: [turn("assistant", row[name])] for name in ("chosen", "rejected")},
        }
        for row in rows
    ]


def implicit(rows):
    """Pairs whose prompts are the beginnings of their answers."""
    return [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]


def spaced(rows):
    """The same pairs of texts, whose answers begin with a space and then differ."""
    signs = {"chosen": " +", "rejected": " -"}
    return [{**row, **{name: sign + row[name] for name, sign in signs.items()}} for row in rows]


def converted(rows, options=PAIRS):
    """Samples of rows, converted one by one, as a dataset and as a table, which must agree."""
    single = convert(rows, options)
    for table in (datasets.Dataset.from_list(rows), pa.Table.from_pylist(rows)):
        found = convert(table, options)
        bulk = found.to_list() if isinstance(found, datasets.Dataset) else found.to_pylist()
        for one, other in zip(single, bulk, strict=True):
            turns = [turn("user", one["prompt"])] if isinstance(one["prompt"], str) else one["prompt"]
            assert other == {"tools": None, **one, "prompt": turns}
    return single


def test_a_pair_is_two_responses_of_which_the_chosen_is_the_target():
    (sample,) = converted(pairs(1))
    (row,) = pairs(1)
    assert sample == {
        "prompt": row["prompt"],
        "responses": [row["chosen"], row["rejected"]],
        "dimensions": ["preference"],
        "ratings": [[None, None]],
        "pi_target": [[1.0, 0.0]],
        "record": 0,
    }


def test_every_form_is_the_same_pair():
    rows = spaced(pairs(4))
    expected = [(sample["responses"], sample["pi_target"]) for sample in converted(rows)]
    prompts = [[turn("user", row["prompt"])] for row in rows]
    mixed = [{**row, "prompt": text["prompt"]} for row, text in zip(messages(rows), rows, strict=True)]
    forms = [messages(rows), implicit(messages(rows)), implicit(rows), mixed]
    for form in forms:
        found = converted(form)
        assert [(sample["responses"], sample["pi_target"]) for sample in found] == expected
        turns = [[turn("user", text)] if isinstance(text := sample["prompt"], str) else text for sample in found]
        assert turns == prompts


def test_the_prompt_of_texts_ends_where_they_differ():
    def split(chosen, rejected):
        (sample,) = converted([{"chosen": chosen, "rejected": rejected}])
        return sample["prompt"], *sample["responses"]

    assert split("The sky is blue.", "The sky is green.") == ("The sky is", " blue.", " green.")
    assert split("Is it?\nYes.", "Is it?\nNo.") == ("Is it?\n", "Yes.", "No.")
    assert split("It is so.", "It is so. Or not.") == ("It is so", ".", ". Or not.")


def test_a_conversation_a_system_turn_and_tools_reach_the_sample():
    turns = [turn("system", "S"), turn("user", "Q"), turn("assistant", "A"), turn("user", "R")]
    answers = {"chosen": [turn("assistant", "b")], "rejected": [turn("assistant", "c")]}
    explicit = {"prompt": turns, **answers}
    whole = {name: turns + answer for name, answer in answers.items()}
    beside = {"system": "S", "prompt": turns[1:], **answers}
    for row in (explicit, whole, beside):
        (sample,) = converted([row])
        assert (sample["prompt"], sample["responses"]) == (turns, ["b", "c"])
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    assert convert({**explicit, "tools": json.dumps(tools)}, PAIRS)["tools"] == tools


def test_other_columns_are_named_in_the_log(caplog):
    with caplog.at_level(logging.WARNING, logger="lambda_dpo"):
        convert(datasets.Dataset.from_list([{**row, "score_chosen": 8.0} for row in pairs(2)]), PAIRS)
    assert "Fields of the records without effect: score_chosen." in caplog.text


def test_listwise_loss_of_a_pair_is_dpos(tmp_path, folder):
    def both(name, rows):
        runs = {loss_type: tmp_path / f"{name} {loss_type}" for loss_type in ("listwise", "sigmoid")}
        return [losses(trained(out, folder, rows, loss_type=loss_type, max_steps=3)) for loss_type, out in runs.items()]

    found = both("pairs", pairs())
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)
    assert abs(found[0][0] - found[0][-1]) > 1e-3
    # Ratings say by how much the chosen answer is better, a pair only that it is; their order is the same.
    soft = both("rated", rated(pairs()))
    torch.testing.assert_close(soft[1], found[1], atol=1e-6, rtol=0)
    assert abs(soft[0][-1] - found[0][-1]) > 1e-3


def test_a_preference_may_be_in_the_dimensions_that_are_named(tmp_path, folder):
    names = ["helpfulness", "honesty"]
    for sample in converted(pairs(2), ConvertOptions(format="pairs", dimensions=names)):
        assert sample["dimensions"] == names
        assert (sample["pi_target"], sample["ratings"]) == ([[1.0, 0.0]] * 2, [[None, None]] * 2)
    one = losses(trained(tmp_path / "one", folder, pairs(), max_steps=3))
    two = trained(tmp_path / "two", folder, pairs(), dimensions=names, max_steps=3)
    torch.testing.assert_close(losses(two), one, atol=1e-6, rtol=0)
    assert {f"loss/{name}" for name in names} <= set(two.state.log_history[0])
    # Only the λ-adapter tells the dimensions apart: it learns in those that λ is drawn for.
    schedule = {"lambda_schedule": "fixed", "lambda_weights": {"honesty": 1.0}}
    adapted = trained(
        tmp_path / "adapted",
        folder,
        pairs(),
        dimensions=names,
        max_steps=2,
        peft_config=LambdaLoraConfig(r=0, rank_per_dimension=2),
        **schedule,
    )
    assert adapted.model.peft_config["default"].dimensions == names
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            assert not weight[:, :2].any() and weight[:, 2:].any()


def test_the_columns_tell_the_format_and_the_option_decides(tmp_path, folder):
    rows = [{**row, **several} for row, several in zip(pairs(), rated(pairs()), strict=True)]
    with pytest.raises(ConfigError) as error:
        trained(tmp_path / "unclear", folder, rows, max_steps=1)
    assert str(error.value) == (
        "The dataset has `chosen` and `completions`: set data_format to say which of them are the answers (pairs, "
        "ultrafeedback or rankings)."
    )
    found = trained(tmp_path / "pairs", folder, rows, max_steps=1, data_format="pairs")
    assert found.dimensions == ["preference"] and found.train_dataset["pi_target"][0] == [[1.0, 0.0]]
    found = trained(tmp_path / "rated", folder, rows, max_steps=1, data_format="ultrafeedback")
    assert found.train_dataset["pi_target"][0] != [[1.0, 0.0]]


def test_evaluations_take_pairs_too(tmp_path, folder):
    trainer = trained(tmp_path / "run", folder, messages(pairs()), pairs(4, 12), max_steps=1)
    assert trainer.evaluate()["eval_rewards/accuracies"] >= 0
    message = (
        "One dataset has the format pairs, another ultrafeedback: give those for training and evaluation in the same "
        "form."
    )
    with pytest.raises(ConfigError) as error:
        trainer.evaluate(datasets.Dataset.from_list(records(2)))
    assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        trained(tmp_path / "mixed", folder, pairs(), records(2), max_steps=1)
    assert str(error.value) == message


REFUSED = {
    "`chosen` holds texts, but `rejected` messages: write both in the same form.": {
        "rejected": [turn("assistant", "b")]
    },
    "`prompt` holds messages, but `chosen` and `rejected` texts: write the answers as messages too, or the prompt as a "
    "text.": {"prompt": [turn("user", "Q")]},
    "record 0: `chosen` and `rejected` are texts that begin differently, so they hold no prompt: add a column "
    "`prompt`.": {"prompt": None},
}


@pytest.mark.parametrize("message", REFUSED)
def test_mixtures_are_refused(message):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", **REFUSED[message]}
    row = {name: value for name, value in row.items() if value is not None}
    for given in (row, [row], datasets.Dataset.from_list([row]), pa.Table.from_pylist([row])):
        with pytest.raises(ConfigError) as error:
            convert(given, PAIRS)
        assert str(error.value) == message


def test_half_a_pair_and_what_pairs_do_not_have_are_refused(tmp_path, folder):
    with pytest.raises(ConfigError, match="^The dataset has `chosen` but no `rejected`: a pair needs both.$"):
        trained(tmp_path, folder, [{"prompt": "Q", "chosen": "a"}], max_steps=1)
    with pytest.raises(ConfigError, match="^missing_rating is 1.0, but pairs have no ratings: leave it out.$"):
        trained(tmp_path, folder, pairs(), missing_rating=1.0, max_steps=1)
    with pytest.raises(ConfigError, match="^temperature is 2.0, but pairs have no ratings: leave it out.$"):
        trained(tmp_path, folder, pairs(), rating_temperature=2.0, max_steps=1)
    turns = [turn("user", "Q"), turn("assistant", "A"), turn("user", "R"), turn("assistant", "B")]
    other = [*turns[:1], turn("assistant", "C"), *turns[2:]]
    with pytest.raises(InvalidInputError, match="record 0: `chosen` and `rejected` differ before their last turn"):
        convert({"chosen": turns, "rejected": other}, PAIRS)
