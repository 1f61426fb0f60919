"""Measures the server: its speed beside Transformers' `generate`, and at one λ beside many. Rewrites the section
"Serving" of docs/benchmarks.md. `make bench-serving MODEL=DIR` calls it.

    decoding.py MODEL [--rounds N] [--tokens N] [--out FILE]

All sides are processes of their own with the same number of threads, and take turns within a round. The first round is a
warm-up. Times count only if the texts are right: those of Transformers for the model alone, which llama.cpp's must be in
float32, too, and for a λ-adapter those that the same requests get one by one.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import report
from run import machine
from sides import HERE, NUM_THREADS, PROGRAM as BENCH, ROOT, Side, python_side

PROGRAM = BENCH.with_name("lambda-dpo")
NUM_ROWS = 16
PROMPT_TOKENS = 40
DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
SHARED_RANK, RANK = 4, 8
LLAMA_PYTHON = ROOT / ".venvs" / "llama" / "bin" / "python"
LLAMA_DTYPES = ["f32", "bf16"]


class Server:
    """`lambda-dpo serve` on a free port."""

    def __init__(self, *arguments: str) -> None:
        command = [PROGRAM, "serve", "--port", "0", "--device", "cpu", "--name", "m", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": str(NUM_THREADS)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stderr:
            if "listening on " in line:
                self.address = line.rsplit("listening on ", 1)[1].strip()
                break
        else:
            raise SystemExit(f"The server ended before it listened, with status {self.process.wait()}.")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def post(self, body: dict) -> urllib.request.Request:
        text = json.dumps({"model": "m", "temperature": 0, **body}).encode()
        return urllib.request.Request(f"{self.address}/v1/completions", text, {"Content-Type": "application/json"})

    def complete(self, body: dict) -> dict:
        """Asks for one completion: its text, its number of tokens, and the seconds it took."""
        started = time.perf_counter()
        with urllib.request.urlopen(self.post(body)) as response:
            answer = json.load(response)
        seconds = time.perf_counter() - started
        return {
            "text": answer["choices"][0]["text"],
            "num_tokens": answer["usage"]["completion_tokens"],
            "seconds": seconds,
        }

    def first_text(self, body: dict) -> dict:
        """Streams one completion: the seconds to its first text."""
        started = time.perf_counter()
        first = None
        with urllib.request.urlopen(self.post({**body, "stream": True})) as response:
            for line in response:
                has_text = line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]
                if first is None and has_text:
                    first = time.perf_counter() - started
        return {"seconds": first}

    def all(self, ask: Callable[[dict], dict], bodies: list[dict]) -> tuple[float, list[dict]]:
        """Sends requests at once; the seconds until all have ended, and their results in order."""
        results: list[dict] = [{}] * len(bodies)

        def run(index: int) -> None:
            results[index] = ask(bodies[index])

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(bodies))]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started, results

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def write_adapter(model: str, folder: Path) -> None:
    """Writes a λ-adapter with random values, large enough that λ changes the text."""
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(model)
    rank = SHARED_RANK + RANK * len(DIMENSIONS)
    with torch.device("meta"):
        modules = dict(AutoModelForCausalLM.from_config(config).named_modules())
    weights = {}
    for name, module in modules.items():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            scale = 1 / module.in_features**0.5
            prefix = f"base_model.model.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(rank, module.in_features) * scale
            weights[f"{prefix}.lora_B.weight"] = torch.randn(module.out_features, rank) * 0.05
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = {
        "peft_type": "LAMBDA_LORA",
        "task_type": "CAUSAL_LM",
        "r": SHARED_RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".")[-3] for name in weights}),
        "dimensions": DIMENSIONS,
        "rank_per_dimension": RANK,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))


def without_end(model: str, folder: Path) -> str:
    """Links the model's files in a folder whose end token is the last of the vocabulary, so that no text ends early."""
    folder.mkdir()
    for file in Path(model).resolve().iterdir():
        if file.name not in ("config.json", "generation_config.json"):
            (folder / file.name).symlink_to(file)
    config = json.loads((Path(model) / "config.json").read_text())
    config["eos_token_id"] = config["vocab_size"] - 1
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def measure(model: str, num_rounds: int, num_tokens: int, scratch: Path) -> dict:
    model = without_end(model, scratch / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    generator = random.Random(7)
    # Words of the tokenizer's middle, so that no prompt is a special token or ends a text.
    prompts = [[generator.randrange(1000, 8000) for _ in range(PROMPT_TOKENS)] for _ in range(NUM_ROWS)]
    (scratch / "prompts.json").write_text(json.dumps(prompts))
    write_adapter(model, scratch / "adapter")
    bodies = [{"prompt": prompt, "max_tokens": num_tokens} for prompt in prompts]
    short = [{**body, "max_tokens": 4} for body in bodies]
    at = lambda weights: [{**body, "lambda": dict(zip(DIMENSIONS, row))} for body, row in zip(bodies, weights)]
    draws = [[generator.expovariate(1) for _ in DIMENSIONS] for _ in prompts]
    different = at([[weight / sum(row) for weight in row] for row in draws])
    equal = at([[0.4, 0.3, 0.2, 0.1]] * NUM_ROWS)

    common = ["--model", model, "--max-batch-size", str(NUM_ROWS)]
    plain = Server(*common)
    adapted = Server(*common, "--adapter", str(scratch / "adapter"))
    theirs = python_side("Transformers", "decoding_side.py", model, scratch / "prompts.json", num_tokens)
    llama_side = [LLAMA_PYTHON, HERE / "llama_side.py", model, scratch / "prompts.json", num_tokens]
    llamas = {dtype: Side(f"llama.cpp {dtype}", [*llama_side, dtype]) for dtype in LLAMA_DTYPES}
    try:
        alone = [adapted.complete(body)["text"] for body in different]
        rounds = []
        for number in range(num_rounds + 1):
            one = plain.complete(bodies[0])
            their_one = theirs.ask("rows 1")
            many_seconds, many = plain.all(plain.complete, bodies)
            their_many = theirs.ask(f"rows {NUM_ROWS}")
            llama_one = {dtype: side.ask("rows 1") for dtype, side in llamas.items()}
            llama_many = {dtype: side.ask(f"rows {NUM_ROWS}") for dtype, side in llamas.items()}
            equal_seconds, at_equal = adapted.all(adapted.complete, equal)
            different_seconds, at_different = adapted.all(adapted.complete, different)
            for found in (one, *many, *at_equal, *at_different):
                if found["num_tokens"] != num_tokens:
                    raise SystemExit(f"A text ended after {found['num_tokens']} tokens.")
            first = plain.first_text(short[0])["seconds"]
            firsts = [found["seconds"] for found in plain.all(plain.first_text, short)[1]]
            expected = tokenizer.batch_decode(their_many["tokens"], skip_special_tokens=True)
            num_equal = sum(found["text"] == text for found, text in zip(many, expected))
            their_text = tokenizer.decode(their_one["tokens"][0], skip_special_tokens=True)
            # Greedy texts part where two logits are equal but for rounding.
            if one["text"] != their_text or num_equal < NUM_ROWS - 2:
                raise SystemExit(f"Only {num_equal} of {NUM_ROWS} texts are those of Transformers.")
            num_llama = sum(a == b for a, b in zip(llama_many["f32"]["tokens"], their_many["tokens"]))
            if num_llama < NUM_ROWS - 2:
                raise SystemExit(f"Only {num_llama} of {NUM_ROWS} texts of llama.cpp are those of Transformers.")
            num_same = sum(found["text"] == text for found, text in zip(at_different, alone))
            if num_same < NUM_ROWS - 2:
                raise SystemExit(f"Only {num_same} of {NUM_ROWS} texts at many λ are those of one request at a time.")
            if number > 0:
                rounds.append(
                    {
                        "one": one["seconds"],
                        "first": first,
                        "their_one": their_one["seconds"],
                        "many": many_seconds,
                        "first_of_many": statistics.median(firsts),
                        "their_many": their_many["seconds"],
                        "equal": equal_seconds,
                        "different": different_seconds,
                        "num_equal": num_equal,
                        "num_same": num_same,
                        "num_llama": num_llama,
                        **{f"llama_one_{dtype}": answer["seconds"] for dtype, answer in llama_one.items()},
                        **{f"llama_many_{dtype}": answer["seconds"] for dtype, answer in llama_many.items()},
                    }
                )
                print(json.dumps(rounds[-1]), flush=True)
    finally:
        plain.stop()
        adapted.stop()
        for side in (theirs, *llamas.values()):
            side.close()
    return {"rounds": rounds, "num_tokens": num_tokens}


def section(figures: dict, about: dict, name: str) -> str:
    rounds, num_tokens = figures["rounds"], figures["num_tokens"]
    median = lambda key: statistics.median(row[key] for row in rounds)
    rate = lambda key, num_rows: f"{num_rows * num_tokens / median(key):.1f}"

    num_equal, num_same, num_llama = (
        min(row[key] for row in rounds) for key in ("num_equal", "num_same", "num_llama")
    )

    def ratio(over: str, under: str) -> str:
        values = sorted(row[over] / row[under] for row in rounds)
        return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"

    return f"""\
## Serving

`make bench-serving MODEL=…` measures this section: {name}, float32, prompts of {PROMPT_TOKENS} tokens,
{num_tokens} new tokens each, greedy. `lambda-dpo serve` answers requests over HTTP, Transformers' `generate` runs in
Python, and llama.cpp (the library in the package llama-cpp-cffi) is called through its C API; they take turns,
{len(rounds)} rounds after a warm-up. Ratios are medians over the rounds, with the least and the greatest. Our texts are
those of Transformers ({num_equal} of {NUM_ROWS} at least; where two logits are equal but for rounding, texts part),
and so are llama.cpp's in float32 ({num_llama}); those at different λ equal the ones that are asked for one by one
({num_same}).

{about["date"]}, commit {about["commit"]}: {about["cpu"]}, {about["num_cpus"]} CPUs;
torch {about["torch"]}, transformers {about["transformers"]}; {NUM_THREADS} threads a process; load average at the start
{about["load_average"]:.1f}.

|  | tokens/s | time to first token | Transformers' time / ours | llama.cpp's, float32 | bfloat16 weights |
| --- | --- | --- | --- | --- | --- |
| one request | {rate("one", 1)} | {1000 * median("first"):.0f} ms | {ratio("their_one", "one")} | {ratio("llama_one_f32", "one")} | {ratio("llama_one_bf16", "one")} |
| {NUM_ROWS} requests at once | {rate("many", NUM_ROWS)} | {1000 * median("first_of_many"):.0f} ms | {ratio("their_many", "many")} | {ratio("llama_many_f32", "many")} | {ratio("llama_many_bf16", "many")} |

With a λ-adapter of rank {SHARED_RANK} + {len(DIMENSIONS)} × {RANK}, {NUM_ROWS} requests at as many λ get
{rate("different", NUM_ROWS)} tokens/s, and at one λ {rate("equal", NUM_ROWS)}: the throughput at different λ is
{ratio("equal", "different")} of that at one.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    logging.disable_progress_bar()
    about = machine()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(str(Path(options.model).resolve()), options.rounds, options.tokens, Path(scratch))
    text = section(figures, about, Path(options.model).name)
    options.out.write_text(report.with_section(options.out.read_text(), text))
    print(text)


if __name__ == "__main__":
    main()
