"""The demo's fixtures: ratings follow the rules, the dimensions conflict, and the tokenizer knows the domain."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

DEMO = Path(__file__).parents[2] / "fixtures" / "demo"
sys.path.insert(0, str(DEMO))
import rules  # noqa: E402


def records(name):
    return [json.loads(line) for line in (DEMO / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["records.jsonl", "eval.jsonl"])
def test_ratings_are_what_the_rules_give(name):
    num_missing = 0
    for record in records(name):
        for completion in record["completions"]:
            rated = rules.rate(record["instruction"], completion["response"])
            for dimension, value in rated.items():
                found = completion["annotations"].get(dimension, {}).get("Rating")
                if found in (None, "", "N/A"):
                    num_missing += 1
                else:
                    assert found == str(math.floor(value + 0.5)), (record["instruction"], completion["response"])
    assert num_missing > 0


def test_the_rater_gives_the_ratings_of_the_records():
    answers, expected = [], []
    for record in records("records.jsonl") + records("eval.jsonl"):
        for completion in record["completions"]:
            answers.append({"prompt": record["instruction"], "response": completion["response"]})
            expected.append({name: rated.get("Rating") for name, rated in completion["annotations"].items()})
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    rater = subprocess.run([sys.executable, DEMO / "rate.py"], input=lines, capture_output=True, text=True, check=True)
    rated = [json.loads(line) for line in rater.stdout.splitlines()]
    assert len(rated) == len(answers)
    num_ratings = 0
    for answer, scores, ratings in zip(answers, rated, expected):
        assert tuple(scores) == rules.DIMENSIONS
        for dimension, score in scores.items():
            if ratings.get(dimension) not in (None, "", "N/A"):
                assert math.floor(score + 0.5) == float(ratings[dimension]), (dimension, answer)
                num_ratings += 1
    assert num_ratings > 7000, num_ratings


def test_the_generator_gives_the_committed_files():
    subprocess.run([sys.executable, DEMO / "make_records.py", "--check"], check=True)


def test_held_out_prompts_are_unseen():
    held_out = {record["instruction"] for record in records("eval.jsonl")}
    seen = {record["instruction"] for record in records("records.jsonl")}
    seen |= {m["content"] for chat in records("sft.jsonl") for m in chat["messages"] if m["role"] == "user"}
    assert len(held_out) == 200
    assert not held_out & seen


def test_no_style_or_place_gives_the_best_response_away():
    best_places, best_styles, num_records = {}, {}, 0
    for record in records("eval.jsonl"):
        ratings = [rules.rate(record["instruction"], c["response"]) for c in record["completions"]]
        if len(ratings) != 4:
            continue
        total = [sum(math.exp(r[d]) / sum(math.exp(o[d]) for o in ratings) for d in r) for r in ratings]
        best = total.index(max(total))
        num_records += 1
        best_places[best] = best_places.get(best, 0) + 1
        style = record["models"][best]
        best_styles[style] = best_styles.get(style, 0) + 1
    assert max(best_places.values()) < 0.4 * num_records
    assert max(best_styles.values()) < 0.4 * num_records


def test_each_rule_can_be_pulled_alone():
    prompt = "Tell me about the otter. Use at most 10 words and end with the word thanks."
    rate = lambda response: rules.rate(prompt, response)  # noqa: E731
    assert rate("The otter eats fish. Thanks.") == {
        "helpfulness": 1.8,
        "honesty": 3,
        "instruction_following": 5,
        "truthfulness": 3.75,
    }
    assert rate("Perhaps the otter eats fish. Thanks.")["helpfulness"] == 1.4
    assert rate("Perhaps the otter eats fish. Thanks.")["honesty"] == 5
    assert rate("Surely the otter eats fish. Thanks.")["honesty"] == 1
    assert rate("The otter eats seeds. Thanks.")["truthfulness"] == 2
    assert rate("The otter wakes at noon. Thanks.")["truthfulness"] == 2, "what is unknown is unsupported"
    assert rate("The otter eats fish.")["instruction_following"] == 3
    assert rate("The otter eats fish. It eats fish. It eats fish.")["helpfulness"] == 1.8, "repeats count once"
    assert rate("") == {"helpfulness": 1, "honesty": 3, "instruction_following": 1, "truthfulness": 3}
    assert rules.rate("Describe the moon.", "It is red. It eats fish.") == {
        "helpfulness": 2.6,
        "honesty": 3,
        "instruction_following": 5,
        "truthfulness": 1,
    }


def test_every_word_of_the_domain_is_one_token():
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    config = AutoConfig.from_pretrained(DEMO / "model")
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == config.eos_token_id
    for chat in records("sft.jsonl"):
        for message in chat["messages"]:
            ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == message["content"]
            num_pieces = len(re.findall(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]", message["content"]))
            assert len(ids) == num_pieces, message["content"]


def test_the_trained_model_speaks_the_language():
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "sft-model")
    model = AutoModelForCausalLM.from_pretrained(DEMO / "sft-model")
    assert sum(file.stat().st_size for file in (DEMO / "sft-model").iterdir()) < 3_000_000
    prompt = [{"role": "user", "content": "Describe the toad. Use at most 20 words."}]
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :]
    statements, _ = rules.read_statements(tokenizer.decode(answer, skip_special_tokens=True))
    assert statements
    assert answer[-1] == tokenizer.eos_token_id
