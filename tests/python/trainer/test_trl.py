"""Beside TRL: what its DPOTrainer makes of its preference datasets, `LambdaDPOTrainer` makes of them too."""

import random

import datasets
import pytest
import torch
from test_pairs import implicit, messages, spaced
from test_trainer import LEARNING_RATE, losses, trained
from tiny import make_model, pairs
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, extract_prompt

from lambda_dpo import ConvertOptions, convert

STEPS = 4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))


def trained_by_trl(folder, model, rows, **options):
    args = DPOConfig(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=len(rows),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        **options,
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    return trainer


def system(rows):
    """The same conversations with a system turn and an earlier exchange."""
    before = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A keeper of the island."},
    ]
    return [{**row, "prompt": before + row["prompt"]} for row in rows]


FORMS = {
    "explicit prompt": messages,
    "implicit prompt": lambda rows: implicit(messages(rows)),
    "several turns": lambda rows: system(messages(rows)),
    "several turns, implicit prompt": lambda rows: implicit(system(messages(rows))),
}


@pytest.mark.parametrize("family", ["llama3", "qwen"])
@pytest.mark.parametrize("form", FORMS)
def test_tokens_and_losses_of_conversations_are_trls(tmp_path, family, form):
    model = make_model(tmp_path / "model", family)
    rows = FORMS[form](pairs())
    theirs = trained_by_trl(tmp_path / "trl", model, rows)
    ours = trained(tmp_path / "ours", model, rows, max_steps=STEPS)
    for mine, other in zip(ours.train_dataset, theirs.train_dataset, strict=True):
        assert mine["prompt_ids"] == other["prompt_ids"]
        assert mine["response_ids"] == [other["chosen_ids"], other["rejected_ids"]]
    torch.testing.assert_close(losses(ours), losses(theirs), atol=1e-5, rtol=0)
    assert losses(ours)[0] - losses(ours)[-1] > 1e-3, "training must have moved the loss for this to mean something"
    # In the first step all rewards are 0, and of a tie TRL counts nothing, ours a half.
    row, other = ([row for row in trainer.state.log_history if "loss" in row][-1] for trainer in (ours, theirs))
    for name in ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen"):
        assert abs(row[name] - other[name]) < 1e-3, name


def test_the_prompt_of_texts_is_what_trl_extracts():
    generator = random.Random(0)

    def text(shared, length):
        return shared + "".join(generator.choice("ab ") for _ in range(length))

    rows = [*implicit(pairs()), *implicit(spaced(pairs()))]
    for _ in range(200):
        shared = text("x", 4)
        rows.append({name: text(shared, generator.randrange(1, 4)) for name in ("chosen", "rejected")})
    samples = convert(datasets.Dataset.from_list(rows), ConvertOptions(format="pairs"))
    for row, sample in zip(rows, samples, strict=True):
        extracted = extract_prompt(row)
        ((turn,), responses) = sample["prompt"], sample["responses"]
        assert (turn["content"], responses) == (extracted["prompt"], [extracted["chosen"], extracted["rejected"]])
