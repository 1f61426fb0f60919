"""`evaluate` beside Transformers, NumPy and SciPy: what it measures on held-out records, and on answers that it samples."""

import itertools
import json
import math
import os
import subprocess

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import DIMENSIONS, PROGRAM, make_model, records
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

BETA = 0.3


def evaluate(*arguments):
    """Runs the program; returns evaluation.json and the lines of answers.jsonl."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([PROGRAM, "evaluate", *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    out = arguments[arguments.index("--out") + 1]
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    return json.loads((out / "evaluation.json").read_text()), answers


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ratings(row, dimension):
    """Ratings of a record's responses as numbers, NaN where there is none."""

    def number(text):
        try:
            return float(text)
        except (TypeError, ValueError):
            return math.nan

    annotations = [completion["annotations"].get(dimension, {}) for completion in row["completions"]]
    return np.array([number(annotation.get("Rating")) for annotation in annotations])


class Policy:
    """A model of Transformers in float64."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def log_softmax(self, prompt, response):
        """Log-probs over the vocabulary, [T, V], at each token of the response, and its tokens."""
        messages = [{"role": "user", "content": prompt}]
        start = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        whole = self.tokenizer.apply_chat_template(
            messages + [{"role": "assistant", "content": response}], tokenize=False
        )
        start, whole = (self.tokenizer.encode(text, add_special_tokens=False) for text in (start, whole))
        assert whole[: len(start)] == start
        with torch.no_grad():
            logits = self.model(torch.tensor([whole])).logits[0]
        return logits.log_softmax(-1)[len(start) - 1 : -1], torch.tensor(whole[len(start) :])


def jackknife(statistic, groups):
    """Standard error of a statistic, leaving out one group in turn."""
    parts = np.array([statistic(groups[:index] + groups[index + 1 :]) for index in range(len(groups))])
    return math.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean()) ** 2).sum())


def cluster_error(groups):
    """Standard error of the mean of values in groups (statsmodels calls it the cluster-robust covariance, HC1)."""
    values = np.concatenate(groups)
    sums = np.array([(np.array(group) - values.mean()).sum() for group in groups])
    return math.sqrt(len(groups) / (len(groups) - 1) * (sums**2).sum()) / len(values)


def close(found, mean, stderr, tolerance):
    assert found["mean"] == pytest.approx(mean, abs=tolerance, rel=tolerance)
    assert found["stderr"] == pytest.approx(stderr, abs=tolerance, rel=10 * tolerance)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folders of a model and its reference."""
    folder = tmp_path_factory.mktemp("models")
    return make_model(folder / "policy"), make_model(folder / "reference", seed=1)


def test_records_are_measured_as_with_transformers(pair, tmp_path):
    """Float32 beside float64, with logits of some 10: 1e-5 for each log-prob, and for the divergence of a token."""
    rows = [row for row in records(14) if len(row["completions"]) >= 2]
    path = write_lines(tmp_path / "records.jsonl", rows)
    found, answers = evaluate(
        *("--model", pair[0], "--reference", pair[1], "--records", path, "--out", tmp_path / "out"),
        *("--beta", BETA, "--num-prompts", 0),
    )
    assert answers == [] and found["kl"]["k1"] is None
    policy, reference = Policy(pair[0]), Policy(pair[1])
    divergences, sequences, margins, accuracies = [], [], [], []
    losses, expected = {name: [] for name in DIMENSIONS}, {name: [] for name in DIMENSIONS}
    for row in rows:
        divergence, sums = [], []
        for completion in row["completions"]:
            p, tokens = policy.log_softmax(row["instruction"], completion["response"])
            q, _ = reference.log_softmax(row["instruction"], completion["response"])
            divergence.append((p.exp() * (p - q)).sum(-1).numpy())
            at = tokens[:, None]
            sums.append((p.gather(1, at).sum().item(), q.gather(1, at).sum().item(), len(tokens)))
        divergences.append(np.concatenate(divergence))
        sums = np.array(sums)
        sequences.append(sums)
        rewards = BETA * (sums[:, 0] - sums[:, 1])
        for name in DIMENSIONS:
            given = ratings(row, name)
            rated = ~np.isnan(given)
            if rated.sum() < 2:
                continue
            log_p = rewards[rated] - np.log(np.exp(rewards[rated]).sum())
            target = np.exp(given[rated]) / np.exp(given[rated]).sum()
            losses[name].append(-(target * log_p).sum())
            expected[name].append((np.exp(log_p) * given[rated]).sum())
    close(found["kl"]["tokens"], np.concatenate(divergences).mean(), cluster_error(divergences), 1e-5)
    for name in DIMENSIONS:
        assert found["records"][f"loss/{name}"] == pytest.approx(np.mean(losses[name]), rel=1e-5)
        assert found["records"][f"expected_rating/{name}"] == pytest.approx(np.mean(expected[name]), rel=1e-5)
    ratio = np.concatenate([sums[:, 0] - sums[:, 1] for sums in sequences]).mean()
    assert found["records"]["logps/ratio"] == pytest.approx(ratio, rel=1e-5)

    for column, side in enumerate(["policy", "reference"]):
        for name, value in {
            "sum": lambda sums: sums[:, column],  # noqa: B023  (used at once)
            "mean": lambda sums: sums[:, column] / sums[:, 2],  # noqa: B023
        }.items():

            def rho(groups):
                pairs = np.concatenate([np.stack([value(sums), sums[:, 2]], 1) for sums in groups])  # noqa: B023
                return spearmanr(pairs[:, 0], pairs[:, 1]).statistic

            # Ranks of float32 and float64 are the same: no two log-probs are that close.
            close(found["spearman"][name][side], rho(sequences), jackknife(rho, sequences), 1e-9)


WORDS = ["<s>", "</s>", "a", "b", "c", "x"]


def make_wordy_model(folder, seed):
    """A model of six words, few enough to enumerate all its answers of up to three."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    tokenizer.chat_template = (
        "<s>{% for m in messages %} {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.35)
    model.save_pretrained(folder)
    return folder


def test_k1_and_k3_estimate_the_divergence_of_all_answers(tmp_path):
    """The divergence of the distributions of answers, by enumeration; estimates within four standard errors, which 1 of
    16,000 runs would miss if the answers were not the same on every machine."""
    policy_folder, reference_folder = (make_wordy_model(tmp_path / name, seed) for name, seed in [("p", 0), ("q", 1)])
    policy, reference = Policy(policy_folder), Policy(reference_folder)
    prompts, longest = ["a b", "c x a"], 3
    exact = []
    for prompt in prompts:
        total = 0.0
        for length in range(1, longest + 1):
            for answer in itertools.product(range(len(WORDS)), repeat=length):
                # An answer ends with its first </s>, or with its third word.
                if 1 in answer[:-1] or (answer[-1] != 1 and length < longest):
                    continue
                start = [0, *(WORDS.index(word) for word in prompt.split())]
                rows = [
                    model.model(torch.tensor([start + list(answer)])).logits[0].log_softmax(-1).detach()
                    for model in (policy, reference)
                ]
                at = range(len(start) - 1, len(start) + length - 1)
                p, q = (sum(row[i, token].item() for i, token in zip(at, answer, strict=True)) for row in rows)
                total += math.exp(p) * (p - q)
        exact.append(total)
    given = write_lines(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])
    path = write_lines(
        tmp_path / "records.jsonl",
        [{"instruction": "a", "completions": [{"response": r, "annotations": {"good": {"Rating": r}}} for r in "12"]}],
    )
    found, answers = evaluate(
        *("--model", policy_folder, "--reference", reference_folder, "--records", path, "--prompts", given),
        *("--out", tmp_path / "out", "--num-samples", 4000, "--max-new-tokens", longest, "--batch-size", 1000),
    )
    assert len(answers) == 8000 and {answer["prompt"] for answer in answers} == set(prompts)
    for answer in answers[:200]:
        assert answer["num_tokens"] == len(answer["response"].split()) + (answer["finish_reason"] == "stop")
    assert np.mean(exact) > 0.1, "the two differ"
    # The error over two prompts tells nothing about the error over answers, so it is estimated here.
    own = {name: [[], []] for name in ("k1", "k3")}
    for answer in answers:
        tokens = [WORDS.index(word) for word in answer["response"].split()]
        tokens += [1] if answer["finish_reason"] == "stop" else []
        own["k1"][prompts.index(answer["prompt"])].append(tuple(tokens))
    ratios = {}
    for index, prompt in enumerate(prompts):
        start = [0, *(WORDS.index(word) for word in prompt.split())]
        for tokens in set(own["k1"][index]):
            rows = [
                model.model(torch.tensor([start + list(tokens)])).logits[0].log_softmax(-1).detach()
                for model in (policy, reference)
            ]
            at = range(len(start) - 1, len(start) + len(tokens) - 1)
            ratios[index, tokens] = np.array(
                [(rows[1][i, token] - rows[0][i, token]).item() for i, token in zip(at, tokens, strict=True)]
            )
    terms = {"k1": lambda r: -r, "k3": lambda r: np.exp(r) - 1 - r}
    for name, term in terms.items():
        groups = [[term(ratios[index, tokens]).sum() for tokens in own["k1"][index]] for index in range(2)]
        close(found["kl"][name], np.concatenate(groups).mean(), cluster_error(groups), 1e-5)
        error = math.sqrt(sum(np.var(group, ddof=1) / len(group) for group in groups)) / 2
        assert abs(found["kl"][name]["mean"] - np.mean(exact)) < 4 * error, (name, found["kl"], exact)


def test_a_reward_model_judges_as_in_transformers(pair, tmp_path):
    """The scores of the answers, with the chat template, to 1e-4; the win rate follows from them."""
    tokenizer = AutoTokenizer.from_pretrained(pair[0])
    config = LlamaConfig.from_pretrained(pair[0], num_labels=1)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    path = write_lines(tmp_path / "records.jsonl", records(8))
    found, answers = evaluate(
        *("--model", pair[0], "--reference", pair[1], "--records", path, "--out", tmp_path / "out"),
        *("--reward-model", tmp_path / "reward", "--num-samples", 2, "--max-new-tokens", 12),
    )
    assert len(answers) == 16 and found["settings"]["judge"] == str(tmp_path / "reward")

    def reward(prompt, response):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            return model(ids).logits[0, 0].item()

    wins = []
    for answer in answers:
        sides = [answer, answer["against"]]
        for side in sides:
            expected = reward(answer["prompt"], side["response"])
            assert side["scores"]["reward"] == pytest.approx(expected, abs=1e-4)
        policy, against = (side["scores"]["reward"] for side in sides)
        wins.append(1.0 if policy > against else 0.5 if policy == against else 0.0)
    assert found["win_rate"]["rate"] == pytest.approx(np.mean(wins), abs=1e-12)
    by_prompt = [wins[index : index + 2] for index in range(0, 16, 2)]
    assert found["win_rate"]["stderr"] == pytest.approx(cluster_error(by_prompt), abs=1e-12)
