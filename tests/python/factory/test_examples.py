"""All keys of the examples exist, here or in LLaMA-Factory, and their datasets are in dataset_info.json."""

import dataclasses
import json

import pytest
import yaml
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from llamafactory.hparams.training_args import TrainingArguments
from tiny import ROOT

from lambda_dpo.factory import keys

EXAMPLES = ROOT / "plugin" / "python" / "examples"
CONFIGS = sorted(path for path in EXAMPLES.glob("*.yaml") if "pref_loss" in path.read_text())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_keys_exist(path):
    args, ours = keys.split(yaml.safe_load(path.read_text()))
    keys.options(ours)
    keys.adapter(args, ours)
    classes = (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments)
    known = {field.name for arguments in classes for field in dataclasses.fields(arguments)}
    assert set(args) <= known
    assert (args["stage"], args["pref_loss"]) == ("dpo", keys.PREF_LOSS)
    assert args["dataset"] in json.loads((EXAMPLES / "dataset_info.json").read_text())


def test_all_examples_are_checked():
    assert len(CONFIGS) == 5
