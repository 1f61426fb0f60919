"""Nothing that a record holds is lost on its way through the package: used, refused by name, or logged."""

import json
import logging
from datetime import UTC, datetime

import datasets
import pytest
from tiny import ROOT

import lambda_dpo
from lambda_dpo import ConvertOptions, ListwiseCollator, SampleTokenizer, convert

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def record(**fields):
    return {"prompt": "Q", "completions": ["a", "b"], "ratings": {"h": [1.0, 2.0]}, **fields}


def in_bulk(rows):
    return convert(datasets.Dataset.from_list(rows))


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_column_becomes_the_first_turn(name):
    rows = [record(**{name: "S"}), record(**{name: None})]
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert convert(rows[0])["prompt"] == turns
    assert in_bulk(rows)["prompt"][:] == [turns, turns[1:]]


def test_tools_reach_the_template():
    tokenizer = SampleTokenizer(_with_template("{{ tools | tojson if tools }}|{% for m in messages %}{{ m.content }}{% endfor %}"))
    one = convert(record(tools=TOOLS))
    assert one["tools"] == TOOLS
    bulk = in_bulk([record(tools=json.dumps(TOOLS)), record(tools="")])
    assert (json.loads(bulk["tools"][0]), bulk["tools"][1]) == (TOOLS, None)
    ids = [tokenizer.tokenize(sample)["prompt_ids"] for sample in (one, bulk[0], bulk[1])]
    assert ids[0] == ids[1] and len(ids[0]) > len(ids[2]) + 20
    silent = SampleTokenizer(ROOT / "fixtures" / "demo" / "sft-model")
    with pytest.raises(lambda_dpo.InvalidInputError, match="the chat template does not print `tools`"):
        silent.tokenize(one)


def loaded(folder, rows):
    """Rows as `load_dataset` reads them from JSON lines: objects whose keys differ become JSON in text."""
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="this version of datasets refuses such a file")
def test_objects_of_different_keys_are_read_from_json_lines(tmp_path):
    def completion(text, **ratings):
        return {"response": text, "annotations": {name: {"Rating": value} for name, value in ratings.items()}}

    rows = [
        {"instruction": "Q", "completions": [completion("a", g=1, h=2.5), completion("b", h="3")]},
        {"instruction": "R", "completions": [completion("c", x=4), completion("d", x=None)]},
    ]
    dataset = loaded(tmp_path, rows)
    assert "Json" in str(dataset.features)
    dimensions = ["g", "h", "x"]
    expected = [
        {"tools": None, **sample, "prompt": [{"role": "user", "content": sample["prompt"]}]}
        for sample in convert(rows, ConvertOptions(dimensions=dimensions))
    ]
    for options in (ConvertOptions(), ConvertOptions(dimensions=dimensions)):
        assert list(convert(dataset, options)) == expected
    (tmp_path / "others").mkdir()
    rows = [record(ratings={"h": [1, 2]}), record(ratings={"g": [3, 1]})]
    dataset = loaded(tmp_path / "others", rows)
    assert "Json" in str(dataset.features)
    whole = [{"g": [None, None], "h": [1, 2]}, {"g": [3, 1], "h": [None, None]}]
    assert list(convert(dataset)) == list(in_bulk([record(ratings=ratings) for ratings in whole]))


def _with_template(template, folder=ROOT / "fixtures" / "demo" / "sft-model"):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def test_numpys_numbers_are_ratings_and_nan_is_a_missing_one():
    import numpy as np

    rows = [
        record(ratings={"h": [np.float32(1.5), np.int64(2)], "g": np.array([3.0, np.nan])}),
        {"instruction": "Q", "completions": [{"response": "a", "annotations": {"g": float("nan"), "h": np.float64(1.5)}}] * 2},
    ]
    found = [convert(row) for row in rows]
    assert found[0]["ratings"] == [[3.0, None], [1.5, 2.0]]
    assert found[1]["ratings"] == [[None, None], [1.5, 1.5]]
    bulk = in_bulk([record(ratings={"h": [1.0, 2.0], "g": [3.0, float("nan")]})])
    assert bulk["ratings"][0] == [[3.0, None], [1.0, 2.0]]
    for infinite in (convert, lambda row: in_bulk([row])):
        with pytest.raises(lambda_dpo.InvalidInputError, match="Rating` is Infinity: a rating is a finite number"):
            infinite(record(ratings={"h": [1.0, float("inf")]}))


def test_columns_that_are_not_needed_may_hold_anything(caplog):
    when = datetime(2024, 1, 1, tzinfo=UTC)
    assert convert(record(created=when, image=None))["responses"] == ["a", "b"]
    with caplog.at_level(logging.WARNING, logger="lambda_dpo"):
        assert in_bulk([record(created=when, score=3)])["responses"][0] == ["a", "b"]
    assert "Fields of the records without effect: created, score." in caplog.text
    with pytest.raises(lambda_dpo.InvalidInputError, match="`prompt` is an object: expected text"):
        convert(record(prompt=when))


@pytest.mark.parametrize(("field", "value"), [("images", ["a.png"]), ("input", "more"), ("weight", 0.5)])
def test_fields_that_would_change_the_training_are_refused(field, value):
    for converted in (convert, lambda row: in_bulk([row])):
        with pytest.raises(lambda_dpo.InvalidInputError, match=f"`{field}`"):
            converted(record(**{field: value}))


def test_half_a_character_is_named():
    with pytest.raises(lambda_dpo.InvalidInputError, match="lone surrogate"):
        convert(record(prompt="x \ud83d y"))


RANKINGS = ConvertOptions(format="rankings")


def ranked(**fields):
    return {"prompt": "Q", "responses": ["a", "b", "c"], "rankings": {"h": [1, 2, 2], "g": [None, 1, 2]}, **fields}


def rated(**fields):
    ratings = {"h": [2, 1, 1], "g": [None, 2, 1]}
    return {"prompt": "Q", "completions": ["a", "b", "c"], "ratings": ratings, **fields}


def test_rankings_are_ratings_one_point_apart():
    import numpy as np

    assert convert(ranked(system="S"), RANKINGS) == convert(rated(system="S"))
    assert convert(ranked(rankings={"h": np.array([1, 2, 2]), "g": [np.nan, 1.0, "2"]}), RANKINGS) == convert(rated())
    rows = [ranked(), ranked(rankings={"h": [3, 2, 1]}), ranked(responses=["a"], rankings={"h": [1]})]
    expected = convert([rated(), rated(ratings={"h": [1, 2, 3], "g": [None] * 3})])
    for table in (datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows).data.table):
        found = convert(table, RANKINGS)
        for name in ("pi_target", "ratings"):
            column = found[name][:] if isinstance(table, datasets.Dataset) else found[name].to_pylist()
            assert column == [sample[name] for sample in expected]


def test_rankings_of_a_map_need_the_names_of_their_dimensions():
    import pyarrow as pa

    kind = pa.map_(pa.string(), pa.list_(pa.int64()))
    table = pa.table(
        {
            "prompt": ["Q", "Q"],
            "responses": [["a", "b"], ["c", "d"]],
            "rankings": pa.array([[("h", [2, 1])], [("g", None), ("h", [1, 1])]], kind),
        }
    )
    with pytest.raises(lambda_dpo.InvalidInputError, match="`dimensions` must be named: in this stream `rankings` is of type"):
        convert(table, RANKINGS)
    found = convert(table, ConvertOptions(format="rankings", dimensions=["h"]))
    assert found["ratings"].to_pylist() == [[[1, 2]], [[1, 1]]]


def test_rankings_that_make_no_sense_are_refused():
    for converted in (lambda row: convert(row, RANKINGS), lambda row: _ranked_in_bulk([row])):
        with pytest.raises(lambda_dpo.InvalidInputError, match="`rankings.h` has rank 3 but no rank 2: number the places"):
            converted(ranked(rankings={"h": [1, 3, 3]}))
        with pytest.raises(lambda_dpo.InvalidInputError, match="`rankings.h` has 2 ranks for 3 responses"):
            converted(ranked(rankings={"h": [1, 2]}))
    with pytest.raises(lambda_dpo.InvalidInputError, match="the record has `rankings`: set the format to `rankings`"):
        convert(ranked())
    with pytest.raises(lambda_dpo.ConfigError, match="format is 'ranks', but it must be ultrafeedback, pairs or rankings"):
        ConvertOptions(format="ranks")


def _ranked_in_bulk(rows):
    return convert(datasets.Dataset.from_list(rows), RANKINGS)


def test_a_batch_has_the_place_of_each_response():
    tokenizer = SampleTokenizer(ROOT / "fixtures" / "demo" / "sft-model")
    feature = tokenizer.tokenize(convert(ranked(), RANKINGS))
    assert feature["ranks"] == [[0, 1, 2], [1, 2, 2]]
    tokenized = tokenizer.tokenize_dataset(_ranked_in_bulk([ranked()]))
    assert isinstance(tokenized, datasets.Dataset) and tokenized["ranks"][0] == feature["ranks"]
    without = {name: value for name, value in feature.items() if name != "ranks"}
    for layout in ("packed", "rows", "expanded"):
        for features in ([feature], [without], list(tokenized)):
            batch = ListwiseCollator(layout=layout)(features)
            assert batch["ranks"].tolist() == [[0, 1, 2], [1, 2, 2]]
            assert (batch["ranks"] > 0).tolist() == batch["target_mask"].tolist()
    # The order of ratings whose targets are all 0 in float32.
    far = tokenizer.tokenize(convert(rated(ratings={"h": [0, 3000, 1000]})))
    assert ListwiseCollator()([far])["ranks"].tolist() == [[3, 1, 2]]
    with pytest.raises(lambda_dpo.InvalidInputError, match=r"`ranks\[0\]` has 2 numbers for 3 responses"):
        ListwiseCollator()([{**feature, "ranks": [[1, 2], [1, 2]]}])
