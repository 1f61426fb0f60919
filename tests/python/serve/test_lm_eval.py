"""lm-eval with the server gives what it gives with the merged export in Transformers."""

import json

import lm_eval
import pytest
from conftest import MODEL, NAME, ROOT
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer

TASK = "demo_choice"
NUM_QUESTIONS = 50


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task of multiple-choice questions: which answer of a record is the most helpful?"""
    folder = tmp_path_factory.mktemp("task")
    questions = []
    for line in (ROOT / "fixtures" / "demo" / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        ratings = [answer["annotations"]["helpfulness"]["Rating"] for answer in record["completions"]]
        if len(questions) < NUM_QUESTIONS and all(str(rating).isdigit() for rating in ratings):
            choices = [answer["response"] for answer in record["completions"]]
            best = max(range(len(choices)), key=lambda number: int(ratings[number]))
            questions.append({"question": record["instruction"], "choices": choices, "best": best})
    assert len(questions) == NUM_QUESTIONS
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (folder / f"{TASK}.yaml").write_text(f"""task: {TASK}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / "questions.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: best
metric_list:
  - metric: acc
""")
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(tasks, kind, /, **arguments):
    """Accuracy of a kind of model, and by question the log-likelihood of each answer and whether it is greedy."""
    options = {"task_manager": tasks, "bootstrap_iters": 0}
    results = lm_eval.simple_evaluate(model=kind, model_args=arguments, tasks=[TASK], **options)
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    assert len(samples) == NUM_QUESTIONS
    return results["results"][TASK]["acc,none"], [sample["filtered_resps"] for sample in samples], samples


def test_log_likelihoods_and_accuracy_are_those_of_the_merged_export(policy, address, tasks, tmp_path):
    policy.run("export", "--lambda", "a=0.6", "--to", "hf", tmp_path / "merged")
    merged = {"pretrained": str(tmp_path / "merged"), "dtype": "float32", "device": "cpu"}
    expected_accuracy, expected, samples = evaluate(tasks, "hf", **merged)
    served = {
        "base_url": f"{address}/v1/completions",
        "tokenizer": str(MODEL),
        "tokenizer_backend": "huggingface",
        "num_concurrent": 8,
    }
    accuracy, found, _ = evaluate(tasks, "local-completions", model=f"{NAME}@a=0.6", **served)
    assert accuracy == expected_accuracy
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for ours, theirs, sample in zip(found, expected, samples, strict=True):
        answers = sample["doc"]["choices"]
        for (log_likelihood, is_greedy), (other, other_is_greedy), answer in zip(ours, theirs, answers, strict=True):
            num_tokens = len(tokenizer.encode(answer, add_special_tokens=False).ids)
            assert float(log_likelihood) == pytest.approx(float(other), abs=1e-3 * num_tokens, rel=0)
            assert is_greedy == other_is_greedy
    _, at_uniform, _ = evaluate(tasks, "local-completions", model=NAME, **served)
    moved = [abs(float(ours[0][0]) - float(theirs[0][0])) for ours, theirs in zip(found, at_uniform, strict=True)]
    assert max(moved) > 0.1, "λ does something"
