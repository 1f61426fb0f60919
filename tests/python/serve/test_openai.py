"""OpenAI's Python client with the server: texts, streams, usage, and errors as its classes."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from conftest import MODEL, NAME, ROOT
from tokenizers import Tokenizer

MAX_TOKENS = 32


def client(address, **options):
    return openai.OpenAI(base_url=f"{address}/v1", **{"api_key": "none", "max_retries": 0, **options})


@pytest.fixture(scope="module")
def api(address):
    return client(address)


def weights(number):
    """One of 16 λ, all different: the dimensions' parts of 16."""
    return {"a": number / 16, "b": (15 - number) / 32, "c": (17 - number) / 32}


def prompts(count):
    lines = (ROOT / "fixtures" / "demo" / "records.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["instruction"] for line in lines]


def ask(api, prompt, lambda_, **options):
    return api.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": prompt}],
        extra_body={"lambda": lambda_},
        **{"temperature": 0, "max_tokens": MAX_TOKENS, **options},
    )


def test_concurrent_chats_of_16_lambda_are_the_texts_of_generate(api, policy):
    """At temperature 0 in float32, each of 16 requests at once has exactly the text that it has alone."""
    requests = [(prompt, weights(number)) for number, prompt in enumerate(prompts(16))]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: ask(api, *request), requests))
    expected = [policy.generate(lambda_, prompt, MAX_TOKENS) for prompt, lambda_ in requests]
    assert [answer.choices[0].message.content for answer in answers] == expected
    assert len(set(expected)) > 8, f"the texts differ: {expected}"
    for answer, (_, lambda_) in zip(answers, requests, strict=True):
        assert answer.model_extra["lambda"] == pytest.approx(lambda_)


def test_a_prompt_has_other_texts_at_other_lambda(api, policy):
    (prompt,) = prompts(1)
    texts = {ask(api, prompt, weights(number)).choices[0].message.content for number in (0, 8, 15)}
    assert len(texts) > 1, texts


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}])
def test_streamed_text_and_usage_are_the_unstreamed(api, sampling):
    for number, prompt in enumerate(prompts(4)):
        whole = ask(api, prompt, weights(number), **sampling)
        stream = ask(api, prompt, weights(number), **sampling, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == [
            whole.choices[0].finish_reason
        ]
        assert all(chunk.model_extra["lambda"] == whole.model_extra["lambda"] for chunk in chunks)


def test_usage_counts_tokens(api):
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for number, prompt in enumerate(prompts(4)):
        answer = ask(api, prompt, weights(number), logprobs=True)
        rendered = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        assert answer.usage.prompt_tokens == len(tokenizer.encode(rendered, add_special_tokens=False).ids)
        assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        if answer.choices[0].finish_reason == "length":
            assert answer.usage.completion_tokens == MAX_TOKENS


def test_lambda_is_in_the_models_name_too(api):
    names = [model.id for model in api.models.list()]
    assert names == [NAME, *(f"{NAME}@{dimension}" for dimension in "abc")]
    (prompt,) = prompts(1)
    for name, lambda_ in [
        (NAME, dict.fromkeys("abc", 1 / 3)),
        (f"{NAME}@b", {"a": 0, "b": 1, "c": 0}),
        (f"{NAME}@a=0.6,b=0.3", {"a": 0.6, "b": 0.3, "c": 0.1}),
    ]:
        messages = [{"role": "user", "content": prompt}]
        named = api.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=MAX_TOKENS)
        assert named.model_extra["lambda"] == pytest.approx(lambda_)
        assert named.choices[0].message.content == ask(api, prompt, lambda_).choices[0].message.content


def test_errors_are_the_clients_classes(api, policy):
    (prompt,) = prompts(1)
    with pytest.raises(openai.BadRequestError, match="sum to 1"):
        ask(api, prompt, {"a": 0.7, "b": 0.7})
    with pytest.raises(openai.BadRequestError) as refused:
        ask(api, prompt, {"a": 1}, temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(model="another", messages=[{"role": "user", "content": prompt}])
    with policy.serve("--api-key", "right", "--max-batch-size", "1", "--max-queue", "1") as address:
        with pytest.raises(openai.AuthenticationError):
            client(address, api_key="wrong").models.list()
        with_key = client(address, api_key="right")

        def outcome(_):
            try:
                return ask(with_key, prompt, {"a": 1}, max_tokens=200).choices[0].message.content
            except openai.RateLimitError as error:
                assert int(error.response.headers["retry-after"]) > 0
                return None

        with ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(outcome, range(12)))
        assert None in outcomes, "more than one text runs and one waits"
        texts = set(outcomes) - {None}
        assert texts == {policy.generate({"a": 1, "b": 0, "c": 0}, prompt, 200)}, "those that were let in are answered"
