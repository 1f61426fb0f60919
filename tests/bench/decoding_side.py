"""Transformers' side of decoding.py: generates greedily from the prompts of a file, in batches, when it is told to.

    decoding_side.py MODEL PROMPTS.json NUM_TOKENS
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from serving import serve


def main() -> None:
    folder, prompts, num_tokens = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(num_rows: int) -> dict:
        ids = torch.tensor(prompts[:num_rows])
        started = time.perf_counter()
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "tokens": out[:, ids.shape[1] :].tolist()}

    serve({f"rows {num_rows}": lambda num_rows=num_rows: generate(num_rows) for num_rows in (1, len(prompts))})


if __name__ == "__main__":
    main()
