"""Errors are reported in one sentence, with a non-zero exit code."""

import importlib.metadata
import sys

import pytest
import torch
from tiny import make_model, records

import lambda_dpo.factory.cli as cli
from lambda_dpo import _native


def refusal(factory, model="nowhere", before=None, environment=None, **options):
    """Runs a command that must fail, and returns its only line of error."""
    code, printed = factory.train(factory.config(model, **options), before=before, environment=environment)
    assert code == 1, printed[-2000:]
    lines = [line for line in printed.splitlines() if line.startswith("lambda-dpo-factory: ")]
    assert len(lines) == 1 and "Traceback" not in printed, printed[-2000:]
    return lines[0].removeprefix("lambda-dpo-factory: ")


def test_misspelt_keys(factory):
    found = refusal(factory, lambda_shedule="fixed")
    assert found == "There is no key `lambda_shedule`: did you mean `lambda_schedule`?"
    assert refusal(factory, lambda_alpha="much") == "`lambda_alpha` is 'much', but it must be of type float."
    found = refusal(factory, lambda_schedule="dirichlett")
    assert found.startswith("lambda_schedule is 'dirichlett', but it must be one of dirichlet, ")


def test_keys_of_another_loss_or_stage(factory):
    assert refusal(factory, pref_loss="sigmoid", lambda_alpha=1.0) == (
        "`lambda_alpha` needs `pref_loss: lambda_dpo`: set it, or leave the key out."
    )
    assert refusal(factory, stage="sft") == "`pref_loss: lambda_dpo` needs `stage: dpo`, but the stage is sft."


@pytest.mark.parametrize(
    ("variable", "name"), [("USE_RAY", "Ray"), ("USE_MCA", "MCA (Megatron)"), ("USE_V1", "LLaMA-Factory's v1 trainer")]
)
def test_other_engines(factory, variable, name):
    assert refusal(factory, environment={variable: "1"}) == f"λ-DPO does not run under {name}: unset {variable}."


def test_ray_by_key(factory):
    assert refusal(factory, use_ray=True).startswith("λ-DPO does not run under Ray: leave `use_ray` out")


def test_data_parallel(factory):
    """LLaMA-Factory's launcher starts torchrun if it counts two devices; a worker that is started by hand does not."""

    def started_by_hand():
        torch.cuda.device_count = lambda: 2
        cli.main = cli.run
        sys.argv = ["worker.py", *sys.argv[2:]]

    code, printed = factory.train(factory.config("nowhere"), after_arguments=started_by_hand)
    assert code == 1
    assert printed.strip().splitlines()[-1].startswith(
        "lambda-dpo-factory: λ-DPO does not run under torch.nn.DataParallel: start it with `lambda-dpo-factory train`"
    )


def test_another_version(factory):
    def older():
        original = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.9.4" if name == "llamafactory" else original(name)

    assert refusal(factory, before=older) == "lambda-dpo-factory works with LLaMA-Factory 0.9.5, but this is 0.9.4."


def test_a_name_that_is_gone(factory):
    def without():
        import llamafactory.train.tuner as tuner

        del tuner.run_dpo

    found = refusal(factory, before=without)
    assert found == "LLaMA-Factory 0.9.5 has no llamafactory.train.tuner.run_dpo: install an unchanged 0.9.5."


def test_another_torch(factory):
    def older():
        torch.__version__ = "2.10.0"
        from lambda_dpo import _native

        _native.api.cache_clear()

    assert refusal(factory, before=older).startswith("lambda_dpo was built for torch 2.11.0, but this is torch 2.10.0: ")


def test_a_missing_library(factory):
    # Another test may have loaded the library into the process that the command is forked from.
    found = refusal(factory, before=_native.api.cache_clear, environment={"LAMBDA_DPO_PLUGIN": "/nowhere/liblambda_dpo.so"})
    assert found == "The library /nowhere/liblambda_dpo.so does not exist: unset LAMBDA_DPO_PLUGIN."


def test_datasets_that_are_not_rated(factory):
    model = make_model(factory.folder / "model")
    pairs = [{"instruction": "Hi", "chosen": "Hello.", "rejected": "No."}] * 4
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    factory.write("pairs", pairs, {"ranking": True, "columns": columns})
    assert refusal(factory, model, dataset="pairs") == (
        "The dataset pairs has the formatting alpaca, but λ-DPO needs rated or ranked responses: use one with `formatting: "
        "ultrafeedback or rankings` in dataset_info.json."
    )
    unrated = [{"instruction": "Hi", "completions": [{"response": "a"}, {"response": "b"}]}] * 4
    factory.write("unrated", unrated, {"formatting": "ultrafeedback"})
    assert refusal(factory, model, dataset="unrated").startswith("The records of unrated.json have no ratings: each of their ")
    single = [{**row, "completions": row["completions"][:1]} for row in records(4)]
    factory.write("single", single, {"formatting": "ultrafeedback"})
    assert refusal(factory, model, dataset="single") == (
        "None of the records of single can be used: each needs at least two responses rated or ranked in the same dimension."
    )


def test_keys_that_an_objective_does_not_have(factory):
    found = refusal(factory, lambda_loss_type="plackettluce")
    assert found == "loss_type is 'plackettluce', which does not exist: did you mean 'plackett_luce'?"
    assert refusal(factory, dpo_label_smoothing=0.1) == (
        "`dpo_label_smoothing` belongs to `pref_loss: sigmoid`: set `lambda_label_smoothing` instead."
    )
    found = refusal(factory, lambda_sft_weight=0.1)
    assert found == "There is no key `lambda_sft_weight`: set `pref_ftx`."
    model = make_model(factory.folder / "model")
    found = refusal(factory, model, simpo_gamma=1.0)
    assert found == "simpo_gamma is 1.0, but only simpo has it, not listwise: leave it out."
    found = refusal(factory, model, lambda_loss_type="orpo", ref_model=model)
    assert found == "`ref_model` has no effect, because orpo has no reference: leave it out."
    found = refusal(factory, model, lambda_loss_type="simpo", lambda_reduction="sum")
    assert found == "simpo is defined on means over tokens: set reduction to mean."


def test_keys_without_effect(factory):
    model = make_model(factory.folder / "model")
    assert refusal(factory, model, ld_alpha=0.5) == "`ld_alpha` has no effect with `pref_loss: lambda_dpo`: leave it out."
    assert refusal(factory, model, streaming=True) == "λ-DPO needs to count its records: set `streaming` to false."
