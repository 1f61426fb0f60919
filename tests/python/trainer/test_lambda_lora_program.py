"""λ-adapters in PEFT and in the program: the same logits, losses, gradients and files."""

import functools
import subprocess

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_trainer import LEARNING_RATE, losses, trained
from tiny import DIMENSIONS, host_adapter, host_losses, make_model, records
from transformers import AutoModelForCausalLM, TrainerCallback
from written_models import BUILT, FAMILIES, GOLDEN_MODELS, ROOT, write

import lambda_dpo.trainer
from lambda_dpo import LambdaLoraConfig
from lambda_dpo.lambda_lora.register import PEFT_TYPE

FIVE = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.2, 0.3], [0, 0.25, 0.75]])
#: One-hot, uniform and mixed λ, so that prompts of one packed row have all of them.
TABLE = [
    {"probability": 1.0, "weights": {DIMENSIONS[0]: 1.0}},
    {"probability": 1.0, "weights": {DIMENSIONS[-1]: 1.0}},
    {"probability": 1.0, "weights": dict.fromkeys(DIMENSIONS, 1 / len(DIMENSIONS))},
    {"probability": 1.0, "weights": dict(zip(DIMENSIONS, (0.5, 0.1, 0.1, 0.3), strict=True))},
]
INPUTS = ("input_ids", "position_ids", "prompt_ids", "sequence_ids")


@functools.cache
def build_example():
    command = ["cargo", "build", "--release", "--quiet", "--workspace", "--example", "run_adapter"]
    subprocess.run(command, cwd=ROOT, check=True)


def run_program(folder, model, adapter, inputs):
    """Runs the program's own model and adapter, forwards and, with a gradient of the hidden states, backwards."""
    build_example()
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, folder / "in.safetensors")
    arguments = [model, adapter, folder / "in.safetensors", folder / "out.safetensors"]
    subprocess.run([BUILT / "examples" / "run_adapter", *arguments], check=True)
    return load_file(folder / "out.safetensors")


def rows_of(input_ids, weights):
    """Inputs with one prompt in each row, each with its λ."""
    rows = len(weights)
    ids = input_ids.expand(rows, -1)
    positions = torch.arange(ids.shape[1]).expand(rows, -1)
    prompts = torch.arange(rows)[:, None].expand(ids.shape)
    inputs = {
        "input_ids": ids,
        "position_ids": positions,
        "prompt_ids": prompts,
        "sequence_ids": torch.full_like(ids, -1),
    }
    return {**{name: tensor.contiguous() for name, tensor in inputs.items()}, "lambda": weights}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_programs_adapter_has_its_logits_at_five_lambda(tmp_path, family):
    """Each λ in a row of its own, and each as the λ of the whole batch."""
    values = write(family, tmp_path)
    inputs = rows_of(values["input_ids"], FIVE)
    expected = run_program(tmp_path, GOLDEN_MODELS / family, tmp_path / "lambda_adapter", inputs)["logits"]
    torch.testing.assert_close(expected[3:4], values["lambda_logits"], atol=1e-5, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(GOLDEN_MODELS / family)
    model = PeftModel.from_pretrained(base, tmp_path / "lambda_adapter")
    with torch.no_grad():
        with model.set_lambda(FIVE):
            torch.testing.assert_close(model(inputs["input_ids"]).logits, expected, atol=1e-5, rtol=0)
        for index, weights in enumerate(FIVE):
            with model.set_lambda(dict(zip("abc", weights.tolist(), strict=True))):
                found = model(values["input_ids"]).logits
            torch.testing.assert_close(found, expected[index : index + 1], atol=1e-5, rtol=0)
        with model.disable_adapter():
            torch.testing.assert_close(model(values["input_ids"]).logits, values["base_logits"], atol=1e-5, rtol=0)
    assert min((one - other).abs().max() for one, other in zip(expected, expected[1:], strict=False)) > 0.1


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"r": 0}, {"target_modules": r".*layers\.1\..*_proj"}])
def test_a_saved_adapter_has_the_same_logits_in_the_program(tmp_path, options):
    """As PEFT's `save_pretrained` writes it, with a pattern of layers as the list of what it matched."""
    model = make_model(tmp_path / "model", "qwen")
    config = LambdaLoraConfig(
        **{"r": 2, "rank_per_dimension": 3, "dimensions": ["a", "b", "c"], "init_lora_weights": False, **options}
    )
    torch.manual_seed(3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    adapted.save_pretrained(tmp_path / "adapter")
    inputs = rows_of(torch.arange(3, 27)[None], FIVE)
    with torch.no_grad(), adapted.set_lambda(FIVE):
        found = adapted(inputs["input_ids"]).logits
    expected = run_program(tmp_path, model, tmp_path / "adapter", inputs)["logits"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter")
    with torch.no_grad(), again.set_lambda(FIVE):
        torch.testing.assert_close(again(inputs["input_ids"]).logits, found, atol=0, rtol=0)


def table_toml():
    """`TABLE` as a section of the program's config."""
    weights = lambda row: ", ".join(f"{name} = {weight}" for name, weight in row["weights"].items())  # noqa: E731
    rows = [f"{{ probability = {row['probability']}, weights = {{ {weights(row)} }} }}" for row in TABLE]
    return f'schedule = "table"\ntable = [{", ".join(rows)}]\n'


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_losses_are_the_programs_in_every_layout(tmp_path, family, monkeypatch):
    """Ten steps from the adapter that the program initialises; the trained adapter has the losses of the program's."""
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))
    model = make_model(tmp_path / "model", family)
    sections = {"adapter": 'kind = "lambda_lora"\nrank = 4\nrank_per_dimension = 2', "lambda": table_toml()}
    expected = host_losses(tmp_path / "host", model, records(), steps=10, learning_rate=LEARNING_RATE, **sections)
    start = host_adapter(tmp_path / "start", model, records(), **sections)
    assert expected[0] - expected[-1] > 0.01, "training must have moved the loss for this to mean something"
    variants = {
        "packed": {},
        "shared rows": {"max_tokens": 400},
        "rows": {"layout": "rows"},
        "expanded": {"layout": "expanded"},
        "precomputed, checkpointed": {"precompute_ref_log_probs": True, "gradient_checkpointing": True},
        "accumulated": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4},
    }
    variants = variants if family == "llama3" else {"shared rows": variants["shared rows"]}
    for name, options in variants.items():
        policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), start, is_trainable=True)
        trainer = trained(
            tmp_path / name, policy, tokenizer=model, lambda_schedule="table", lambda_table=TABLE, **options
        )
        torch.testing.assert_close(
            losses(trainer), expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    (program,) = (tmp_path / "host" / "out" / "adapter").glob("*.safetensors")
    trainer.save_model(str(tmp_path / "saved"))
    found = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    for name, tensor in load_file(program).items():
        torch.testing.assert_close(
            found.pop(name), tensor, atol=2e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert not found


class Recorder(TrainerCallback):
    """Keeps, for each step, the adapter before it, the batch, the gradient of the hidden states, and the adapter's."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.steps = folder, []
        original = lambda_dpo.trainer.lambda_dpo_loss

        def recorded(batch, hidden, **given):
            step = {name: batch[name] for name in (*INPUTS, "lambda")}
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: step.update(hidden_gradient=gradient.clone()))
                self.steps.append(step)
            return original(batch, hidden=hidden, **given)

        monkeypatch.setattr(lambda_dpo.trainer, "lambda_dpo_loss", recorded)

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        step = self.steps[-1]
        step["adapter"] = self.folder / f"adapter_{len(self.steps)}"
        model.save_pretrained(step["adapter"])
        names = {
            name: name.replace(".default.", ".") for name, weight in model.named_parameters() if weight.requires_grad
        }
        step["gradients"] = {
            names[name]: weight.grad.clone() for name, weight in model.named_parameters() if name in names
        }


def test_gradients_are_the_programs_in_each_of_ten_steps(tmp_path, monkeypatch):
    """Every tensor's to 1e-5 relative, with one-hot, uniform and mixed λ in one packed row; all in float64."""
    model = make_model(tmp_path / "model", "qwen")
    config = LambdaLoraConfig(r=2, rank_per_dimension=2, dimensions=DIMENSIONS, init_lora_weights=False)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    torch.manual_seed(1)
    policy = get_peft_model(base, config, autocast_adapter_dtype=False)
    recorder = Recorder(tmp_path, monkeypatch)
    options = {"lambda_schedule": "table", "lambda_table": TABLE, "max_tokens": 4000, "max_grad_norm": 0.0}
    original = lambda_dpo.trainer.Trainer.__init__

    def with_recorder(self, *args, **kwargs):
        original(self, *args, **{**kwargs, "callbacks": [recorder]})

    monkeypatch.setattr(lambda_dpo.trainer.Trainer, "__init__", with_recorder)
    trained(tmp_path / "out", policy, tokenizer=model, **options)
    assert len(recorder.steps) == 10
    for step in recorder.steps:
        in_rows = [step["lambda"][prompts.unique()[prompts.unique() >= 0]] for prompts in step["prompt_ids"]]
        kinds = {(tuple((row > 0).tolist()), bool((row == row.max()).all())) for row in torch.cat(in_rows)}
        assert len(in_rows) == 1 and len(kinds) >= 3, "one packed row has prompts of several λ"
        inputs = {name: step[name] for name in (*INPUTS, "lambda", "hidden_gradient")}
        found = run_program(tmp_path, model, step["adapter"], inputs | {"lambda": step["lambda"].double()})
        assert found.keys() - {"logits"} == step["gradients"].keys()
        for name, gradient in step["gradients"].items():
            error = (gradient - found[name]).norm() / found[name].norm()
            assert error < 1e-5, (name, error)


def test_the_type_is_registered_once():
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    member = PeftType(PEFT_TYPE)
    assert member is PeftType.LAMBDA_LORA and member == "LAMBDA_LORA" and list(PeftType).count(member) == 1
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is LambdaLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["LAMBDA_LORA"].__name__ == "LambdaLoraModel"
