"""llama.cpp's side of decoding.py: generates greedily from the prompts of a file, in batches, when it is told to.

    .venvs/llama/bin/python llama_side.py MODEL PROMPTS.json NUM_TOKENS f32|bf16

The weights are those of a Llama model's folder in this dtype, keys and values are float32.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from serving import serve

sys.path.append(str(Path(__file__).parents[1] / "python" / "llama"))
from gguf_files import write_model
from llama_cpp import Llama

NUM_THREADS = int(os.environ["OMP_NUM_THREADS"])


def generate(llama: Llama, prompts: list[list[int]], num_tokens: int) -> dict:
    llama.clear()
    started = time.perf_counter()
    tokens = [[token] for token in llama.decode(prompts, 0)]
    for position in range(len(prompts[0]), len(prompts[0]) + num_tokens - 1):
        for row, token in zip(tokens, llama.decode([row[-1:] for row in tokens], position), strict=True):
            row.append(token)
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def main() -> None:
    model, prompts, num_tokens, dtype = sys.argv[1:]
    rows, num_tokens = json.loads(Path(prompts).read_text()), int(num_tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_model(Path(model), file, dtype)
        llama = Llama(file, (), NUM_THREADS, len(rows), len(rows[0]) + num_tokens)
        serve(
            {
                f"rows {num_rows}": lambda num_rows=num_rows: generate(llama, rows[:num_rows], num_tokens)
                for num_rows in (1, len(rows))
            }
        )


if __name__ == "__main__":
    main()
