"""The package agrees with the description of the library's ABI, and reports a missing library or another torch."""

import ctypes
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from tiny import DIMENSIONS, ROOT, records

import lambda_dpo
from lambda_dpo import LambdaSchedule, ListwiseCollator, SampleTokenizer, _abi, convert

ABI = json.loads((ROOT / "schemas" / "abi-1.0.json").read_text())


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, cwd="/", check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_structs_have_the_headers_layout():
    ours = {
        name: value
        for name, value in vars(_abi).items()
        if isinstance(value, type) and issubclass(value, ctypes.Structure) and hasattr(value, "_fields_")
    }
    compared = 0
    for name, struct in ABI["structs"].items():
        mine = ours.get(name.removeprefix("LambdaDpo"))
        if mine is None or name == "ArrowSchema":
            continue
        assert ctypes.sizeof(mine) == struct["size"], name
        fields = {field: getattr(mine, field) for field, *_ in mine._fields_}
        assert list(fields) == list(struct["fields"]), name
        for field, described in struct["fields"].items():
            assert (fields[field].offset, fields[field].size) == (described["offset"], described["size"]), (name, field)
        compared += 1
    assert compared >= 17


def test_functions_have_the_headers_arguments():
    kinds = {
        "u32": ctypes.c_uint32,
        "u64": ctypes.c_uint64,
        "usize": ctypes.c_size_t,
        "f64": ctypes.c_double,
        "Str": _abi.Str,
    }
    described = ABI["structs"]["LambdaDpoApi"]["fields"]
    for name, result, arguments in _abi.FUNCTIONS:
        inside = re.search(r"fn\((.*?),?\)", described[name]["type"]).group(1)
        types = [argument.split(": ")[1] for argument in inside.split(", ")]
        if result is ctypes.c_int32:
            assert types.pop() == "*mut Error" and described[name]["type"].endswith("-> Status"), name
        assert len(types) == len(arguments), name
        for theirs, ours in zip(types, arguments, strict=True):
            if theirs in kinds:
                assert ours is kinds[theirs], (name, theirs)
            else:
                assert ctypes.sizeof(ours) == 8, (name, theirs)


def test_constants_are_the_headers():
    constants = {name.removeprefix("LAMBDA_DPO_"): value for name, value in ABI["constants"].items()}
    assert (_abi.MAJOR, _abi.MINOR) == (constants["ABI_MAJOR"], constants["ABI_MINOR"])
    named = [name for name in constants if name.startswith(("SCHEDULE_", "WANTS_"))]
    assert all(getattr(_abi, name) == constants[name] for name in named)
    assert _abi.FORMATS == {name: constants[f"FORMAT_{name.upper()}"] for name in _abi.FORMATS}
    assert _abi.LAYOUTS == {name: constants[f"LAYOUT_{name.upper()}"] for name in _abi.LAYOUTS}
    assert _abi.REDUCTIONS == {name: constants[f"REDUCTION_{name.upper()}"] for name in _abi.REDUCTIONS}
    of_pairs = {name.removeprefix("OBJECTIVE_").lower(): code for name, code in constants.items() if "OBJECTIVE_" in name}
    assert _abi.OBJECTIVES == {name: code for name, code in of_pairs.items() if name != "sft"}
    for status in ("OK", "INVALID_ARGUMENT", "INVALID_DATA"):
        assert getattr(_abi, f"STATUS_{status}") == constants[f"STATUS_{status}"]


def test_another_torch_is_refused():
    code = "import torch; torch.__version__ = '2.7.1+cpu'; import lambda_dpo; lambda_dpo.LambdaSchedule(['a'])"
    status, output = python(code)
    assert status == 1
    last = output.strip().splitlines()[-1]
    built_for = torch.__version__.split("+")[0]
    assert last.endswith(
        f"lambda_dpo was built for torch {built_for}, but this is torch 2.7.1: install torch=={built_for}, or rebuild "
        "lambda_dpo in this environment."
    )


def test_a_missing_library_is_reported():
    status, output = python("import lambda_dpo; lambda_dpo.LambdaSchedule(['a'])", LAMBDA_DPO_PLUGIN="/nowhere/lib.so")
    assert status == 1
    assert output.strip().splitlines()[-1].endswith(
        "The library /nowhere/lib.so does not exist: unset LAMBDA_DPO_PLUGIN."
    )


def test_it_works_from_any_folder():
    status, output = python("import lambda_dpo; print(lambda_dpo.LambdaSchedule(['a']).draw_step(0, 0).tolist())")
    assert (status, output.strip()) == (0, "[1.0]")


def test_records_convert_to_the_same_samples_one_by_one_and_in_bulk():
    import datasets

    rows = records(40)
    one_by_one = [convert(row) for row in rows]
    assert all(sample["record"] == 0 for sample in one_by_one)
    listed = convert(rows)
    table = convert(datasets.Dataset.from_list(rows))
    shuffled = convert(datasets.Dataset.from_list(rows).select(range(39, -1, -1)))
    assert [sample["pi_target"] for sample in listed] == table["pi_target"][:]
    assert table["record"][:] == [sample["record"] for sample in listed] == list(range(40))
    assert shuffled["responses"][::-1] == [sample["responses"] for sample in listed]
    assert any(value is None for sample in listed for row in sample["ratings"] for value in row), "some must be missing"


def test_an_invalid_record_is_reported():
    import datasets

    with pytest.raises(lambda_dpo.InvalidInputError, match=r"^record 1: `completions` is missing"):
        convert([records(1)[0], {"instruction": "hi"}])
    broken = [{"instruction": "hi", "completions": [{"response": 3, "annotations": {"a": {"Rating": "1"}}}]}]
    with pytest.raises(lambda_dpo.InvalidInputError, match=r"^record 0 of the stream: `completions\[0\].response`"):
        convert(datasets.Dataset.from_list(broken))


def test_schedules_are_functions_of_their_arguments():
    import pickle

    schedule = LambdaSchedule(DIMENSIONS, "dirichlet", alpha=0.5)
    drawn = schedule.draw(1, 2, [5, 6])
    torch.testing.assert_close(drawn.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert torch.equal(pickle.loads(pickle.dumps(schedule)).draw(1, 2, [6, 5]).flip(0), drawn)
    assert LambdaSchedule(DIMENSIONS, "unimodal", dimension="honesty").draw_step(0, 0).tolist() == [0, 1, 0, 0]
    fixed = LambdaSchedule(DIMENSIONS, "fixed", weights={"honesty": 0.25, "helpfulness": 0.75})
    assert fixed.evaluation().tolist() == [0.75, 0.25, 0, 0]
    with pytest.raises(lambda_dpo.ConfigError, match="λ names the dimension `fun`, but the dimensions are helpfulness"):
        LambdaSchedule(DIMENSIONS, "fixed", weights={"fun": 1})
    with pytest.raises(lambda_dpo.InvalidInputError):
        LambdaSchedule(DIMENSIONS, "fixed", weights={"honesty": 0.5})


def test_collators_reject_inconsistent_samples():
    with pytest.raises(lambda_dpo.InvalidInputError, match="a batch needs at least one sample"):
        ListwiseCollator()([])
    tokenizer = SampleTokenizer(ROOT / "fixtures" / "demo" / "sft-model")
    feature = tokenizer.tokenize(convert(records(1))[0])
    with pytest.raises(lambda_dpo.InvalidInputError, match=r"`pi_target\[0\]` has"):
        ListwiseCollator()([{**feature, "response_ids": feature["response_ids"][:1], "response_indices": [0]}])
