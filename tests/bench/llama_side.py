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

import numpy as np

from serving import serve

sys.path.append(str(Path(__file__).parents[1] / "python" / "llama"))
from gguf_files import write_model
from llama_cpp import ffi, lib

NUM_THREADS = int(os.environ["OMP_NUM_THREADS"])


class Decoder:
    """A model and a cache for `num_rows` texts of up to `num_positions` tokens."""

    def __init__(self, file: Path, num_rows: int, num_positions: int) -> None:
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
        if self.model == ffi.NULL:
            raise SystemExit(f"llama.cpp cannot load {file}.")
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = num_rows * num_positions
        parameters.n_seq_max = num_rows
        parameters.n_threads = parameters.n_threads_batch = NUM_THREADS
        parameters.type_k = parameters.type_v = lib.GGML_TYPE_F32
        self.context = lib.llama_init_from_model(self.model, parameters)
        if self.context == ffi.NULL:
            raise SystemExit("llama.cpp cannot make a context.")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(num_rows * num_positions, 0, 1)

    def decode(self, rows: list[list[int]], start: int) -> list[int]:
        """Adds tokens to each row from a position on; the most probable next token of each row."""
        last, index = [], 0
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                self.batch.token[index] = token
                self.batch.pos[index] = start + offset
                self.batch.n_seq_id[index] = 1
                self.batch.seq_id[index][0] = row
                self.batch.logits[index] = offset == len(tokens) - 1
                index += 1
            last.append(index - 1)
        self.batch.n_tokens = index
        if lib.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp cannot decode.")
        logits = (lib.llama_get_logits_ith(self.context, position) for position in last)
        return [int(np.frombuffer(ffi.buffer(row, 4 * self.vocab_size), np.float32).argmax()) for row in logits]

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict:
        lib.llama_kv_cache_clear(self.context)
        started = time.perf_counter()
        tokens = [[token] for token in self.decode(prompts, 0)]
        for position in range(len(prompts[0]), len(prompts[0]) + num_tokens - 1):
            for row, token in zip(tokens, self.decode([row[-1:] for row in tokens], position), strict=True):
                row.append(token)
        return {"seconds": time.perf_counter() - started, "tokens": tokens}


def main() -> None:
    model, prompts, num_tokens, dtype = sys.argv[1:]
    rows, num_tokens = json.loads(Path(prompts).read_text()), int(num_tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_model(Path(model), file, dtype)
        decoder = Decoder(file, len(rows), len(rows[0]) + num_tokens)
        serve(
            {
                f"rows {num_rows}": lambda num_rows=num_rows: decoder.generate(rows[:num_rows], num_tokens)
                for num_rows in (1, len(rows))
            }
        )


if __name__ == "__main__":
    main()
