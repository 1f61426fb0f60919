"""Reward models have the scores of Transformers' classes, and win rates are those of numpy."""

import json
import os
import subprocess

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from written_models import BUILT, FAMILIES, GOLDEN_MODELS, ROOT

BUILD_EXAMPLE = ["cargo", "build", "--release", "--quiet", "--workspace", "--example", "judge"]
# Some longer than the attention windows of 8, some shorter; one ends with the tokens that end and pad texts.
TEXTS = [[5, 9, 31, 77, 64], list(range(3, 40)), [8] * 21 + [2, 0], [100, 2, 2], [17], [44, 0, 45, 2, 0, 0]]


def run_judge(mode, *arguments, lines):
    """The finished process of the example, which read lines of JSON."""
    subprocess.run(BUILD_EXAMPLE, cwd=ROOT, check=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    command = [BUILT / "examples" / "judge", mode, *arguments]
    environment = os.environ | {"RUST_BACKTRACE": "0"}
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment)


def judge(mode, *arguments, lines):
    """What the example prints for lines of JSON."""
    process = run_judge(mode, *arguments, lines=lines)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def make_reward_model(folder, config, seed=0):
    """Writes a reward model with random weights; returns it."""
    config.num_labels = 1
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # All of them, so that a dropped or swapped tensor is noticed.
            parameter.normal_(mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.3)
    model.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder)


def scores(model, texts):
    """Scores in one batch, padded as Transformers wants it; one by one without a padding token."""
    padding = model.config.pad_token_id
    batches = [[text] for text in texts] if padding is None else [texts]
    found = []
    for batch in batches:
        width = max(map(len, batch))
        ids = torch.tensor([text + [padding] * (width - len(text)) for text in batch])
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in batch])
        with torch.no_grad():
            found += model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    return found


@pytest.mark.parametrize("padding", ["of its own", "that ends texts", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family, padding, tmp_path):
    config = AutoConfig.from_pretrained(GOLDEN_MODELS / family)
    config.pad_token_id = {"of its own": 0, "that ends texts": config.eos_token_id, None: None}[padding]
    model = make_reward_model(tmp_path, config)
    expected = scores(model, TEXTS)
    found = judge("tokens", tmp_path, lines=TEXTS)
    assert np.std(expected) > 0.1, "texts have scores of their own"
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_bfloat16_are_close(family, tmp_path):
    """As close as Transformers' own, to the scores of the same rounded weights in float32."""
    make_reward_model(tmp_path, AutoConfig.from_pretrained(GOLDEN_MODELS / family))
    rounded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    theirs = np.array(scores(rounded, TEXTS))
    exact = np.array(scores(rounded.float(), TEXTS))
    found = np.array(judge("tokens", tmp_path, "bfloat16", lines=TEXTS))
    spread = exact.std()
    # Measured: up to 0.06 of the spread; bfloat16 has 8 bits of mantissa, and errors add up over two layers.
    assert np.abs(theirs - exact).max() < 0.2 * spread
    assert np.abs(found - exact).max() < 0.2 * spread


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_conversations_are_read_through_the_chat_template(family, tmp_path):
    """As `apply_chat_template` tokenises the messages with the answer."""
    folder = tmp_path / family
    tiny.make_model(folder, family)
    model = make_reward_model(folder, AutoConfig.from_pretrained(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    system = [{"role": "system", "content": "You are brief."}]
    answers = [
        {"messages": [*system[: index % 2], {"role": "user", "content": row["prompt"]}], "response": row["chosen"]}
        for index, row in enumerate(tiny.pairs(7))
    ]
    conversations = [
        [*answer["messages"], {"role": "assistant", "content": answer["response"]}] for answer in answers
    ]
    texts = [tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"] for messages in conversations]
    found = judge("answers", folder, BUILT / "liblambda_dpo.so", lines=answers)
    np.testing.assert_allclose(found, scores(model, texts), atol=1e-4, rtol=0)


def test_what_cannot_be_judged_is_said(tmp_path):
    tiny.make_model(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.max_position_embeddings = 9
    model = make_reward_model(tmp_path, config)
    plugin = BUILT / "liblambda_dpo.so"
    answers = [{"messages": [{"role": "user", "content": "Why?"}], "response": "So."}] * 2
    process = run_judge("answers", tmp_path, plugin, lines=answers)
    assert process.returncode == 0
    assert process.stderr.startswith(
        "2 of 2 answers have, with their prompts, more than the 9 tokens that the reward model "
    )

    with torch.no_grad():
        model.score.weight[0, 3] = float("nan")
    model.save_pretrained(tmp_path)
    process = run_judge("answers", tmp_path, plugin, lines=answers)
    assert process.stderr.splitlines()[-1] == (
        f"Error: the reward model {tmp_path} scores answer 0 as NaN: check its weights, or load it with --dtype float32"
    )

    (tmp_path / "chat_template.jinja").unlink()
    process = run_judge("answers", tmp_path, plugin, lines=answers)
    assert process.stderr.strip() == (
        f"Error: the tokenizer of the reward model {tmp_path} has no chat template, through which it reads a "
        "conversation: add the file chat_template.jinja that it was trained with"
    )


def length_controlled(outcomes, excess, ridge=0.01):
    """The rate at equal length of a penalised logistic regression on tanh(Δ/σ), fitted by Newton's method."""
    if not excess.any():
        return outcomes.mean()
    if np.ptp(excess) == 0:
        return None
    features = np.stack([np.ones_like(excess), np.tanh(excess / excess.std(ddof=1))], axis=1)
    at = np.zeros(2)
    for _ in range(200):
        rates = 1 / (1 + np.exp(-features @ at))
        gradient = features.T @ (rates - outcomes) + ridge * at
        hessian = (features * (rates * (1 - rates))[:, None]).T @ features + ridge * np.eye(2)
        at = at - np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-9
    return 1 / (1 + np.exp(-at[0]))


def expected_rate(outcomes, excess):
    """Rate, clustered standard error, Wilson's interval and length-controlled rate of outcomes [prompts, samples]."""
    num_prompts = len(outcomes)
    rate = outcomes.mean()
    residuals = (outcomes - rate).sum(axis=1)
    stderr = np.sqrt(num_prompts / (num_prompts - 1) * (residuals**2).sum()) / outcomes.size
    z, n = 1.959963984540054, num_prompts
    # Wilson's bounds are the roots p of (rate − p)² = z² p (1 − p) / n.
    interval = np.sort(np.roots([1 + z**2 / n, -(2 * rate + z**2 / n), rate**2]).real)
    return rate, stderr, interval, length_controlled(outcomes.ravel(), excess.ravel())


def check(found, outcomes, excess):
    rate, stderr, interval, controlled = expected_rate(outcomes, excess)
    np.testing.assert_allclose([found["rate"], found["stderr"]], [rate, stderr], atol=1e-12)
    np.testing.assert_allclose(found["interval"], interval, atol=1e-8)
    if controlled is None:
        assert found["length_controlled"] is None
    else:
        np.testing.assert_allclose(found["length_controlled"], controlled, atol=1e-8)
    assert [found[name] for name in ("wins", "ties", "losses")] == [(outcomes == value).sum() for value in (1, 0.5, 0)]


def side(scores, lengths):
    """Scores {name: [prompts, samples]} and lengths as the example reads them."""
    prompts, samples = lengths.shape
    named = [
        [{name: float(values[p, s]) for name, values in scores.items()} for s in range(samples)] for p in range(prompts)
    ]
    return {"scores": named, "lengths": lengths.tolist()}


@pytest.mark.parametrize("shape", [(40, 1), (12, 3), (300, 2), (2, 1)])
@pytest.mark.parametrize("case", ["mixed", "longer wins", "always wins", "equal lengths", "equal excess"])
def test_win_rates_are_those_of_numpy(shape, case):
    generator = np.random.default_rng(shape[0])
    lengths, other_lengths = generator.integers(1, 400, (2, *shape))
    # Ratings from 1 to 5 tie often.
    own = {name: generator.integers(1, 6, shape) for name in ("a", "b", "c")}
    other = {name: generator.integers(1, 6, shape) for name in ("a", "b", "c")}
    if case == "longer wins":
        own["a"], other["a"] = lengths, other_lengths
    elif case == "always wins":
        own["a"] = other["a"] + 9
    elif case == "equal lengths":
        other_lengths = lengths
    elif case == "equal excess":
        other_lengths = lengths + 3
    weights = np.array([0.5, 0.25, 0.25])
    request = {
        "policy": side(own, lengths),
        "against": side(other, other_lengths),
        "dimensions": ["c", "a", "b"],
        "lambda": weights.tolist(),
    }
    found = judge("win-rate", lines=[request])
    excess = (lengths - other_lengths).astype(float)
    difference = {name: own[name] - other[name] for name in own}
    # Quarters and integers: exact.
    check(found, 0.5 + 0.5 * np.sign(sum(w * difference[name] for w, name in zip(weights, "cab", strict=True))), excess)
    assert list(found["scores"]) == ["a", "b", "c"]
    for name, values in difference.items():
        check(found["scores"][name], 0.5 + 0.5 * np.sign(values), excess)
    means = [found["mean_length"][name] for name in ("policy", "against")]
    np.testing.assert_allclose(means, [lengths.mean(), other_lengths.mean()])
