"""The LoRAs of `export --to loras` in llama.cpp: its greedy text at several λ is that of `generate --lambda`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from gguf_files import write_lora, write_model
from llama_cpp import Llama
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[3]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
#: Another folder of a Llama model with a tokenizer, such as SmolLM2-135M-Instruct.
MODEL = Path(os.environ.get("LLAMA_TEST_MODEL", ROOT / "fixtures" / "demo" / "sft-model"))
PROMPTS = ["What does the sky look like at night?", "Name a fruit."]
LAMBDAS = [{"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0.1, "b": 0.6, "c": 0.3}]
MAX_NEW_TOKENS = 48


def run(program, *arguments):
    return subprocess.run([BUILT / program, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A λ-adapter over a, b and c with random values, and its LoRAs."""
    folder = tmp_path_factory.mktemp("llama")
    run("examples/write_adapter", MODEL, folder)
    run("lambda-dpo", "export", "--model", MODEL, "--adapter", folder / "lambda_adapter", "--to", "loras", folder / "loras")
    return folder


@pytest.fixture(scope="module")
def llama(folder):
    write_model(MODEL, folder / "model.gguf")
    loras = []
    for adapter in json.loads((folder / "loras" / "lambda.json").read_text())["adapters"]:
        loras.append(folder / f"{adapter['folder']}.gguf")
        write_lora(folder / "loras" / adapter["folder"], MODEL, loras[-1])
    llama = Llama(folder / "model.gguf", loras)
    yield llama
    llama.close()


def test_greedy_text_is_ours_at_every_lambda(folder, llama):
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    config = json.loads((MODEL / "config.json").read_text())
    adapters = json.loads((folder / "loras" / "lambda.json").read_text())["adapters"]
    tokenizer_config = json.loads((MODEL / "tokenizer_config.json").read_text())
    bos = [tokenizer.token_to_id(tokenizer_config["bos_token"])] if tokenizer_config.get("bos_token") else []
    texts = set()
    for prompt in PROMPTS:
        prompt_ids = bos + tokenizer.encode(prompt, add_special_tokens=False).ids
        for weights in LAMBDAS:
            llama.set_scales([1.0 if part["dimension"] is None else weights[part["dimension"]] for part in adapters])
            found = tokenizer.decode(llama.generate(prompt_ids, MAX_NEW_TOKENS, config["eos_token_id"]))
            expected = run(
                "lambda-dpo", "generate", "--model", MODEL, "--adapter", folder / "lambda_adapter", "--device", "cpu",
                "--lambda", ",".join(f"{name}={weight}" for name, weight in weights.items()),
                "--raw", "--max-new-tokens", str(MAX_NEW_TOKENS), prompt,
            )  # fmt: skip
            assert found == expected.removesuffix("\n"), (prompt, weights)
            texts.add(found)
    assert len(texts) == len(PROMPTS) * len(LAMBDAS), f"λ and the prompt do something: {texts}"
