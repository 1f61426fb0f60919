"""Log-probs and their backward at a large vocabulary: the plugin's, compared with materialised logits. Figure 4.

python log_probs.py FILE frozen|trained     serves the materialised version
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from serving import serve
from sides import alternate, python_side, ratio, rust_side

TOLERANCE = 1e-4


class Materialised:
    """The simplest way in PyTorch: all logits, cross_entropy, backward."""

    def __init__(self, file: Path, trains_head: bool):
        tensors = load_file(file)
        self.hidden = tensors["hidden"].clone().requires_grad_()
        self.lm_head = tensors["lm_head"].clone().requires_grad_(trains_head)
        self.target_ids = tensors["target_ids"].clone()

    def step(self) -> dict:
        started = time.perf_counter()
        loss = F.cross_entropy(F.linear(self.hidden, self.lm_head), self.target_ids)
        loss.backward()
        seconds = time.perf_counter() - started
        norm = lambda gradient: None if gradient is None else gradient.norm().item()
        answer = {
            "seconds": seconds,
            "loss": loss.item(),
            "grad_hidden_norm": norm(self.hidden.grad),
            "grad_head_norm": norm(self.lm_head.grad),
        }
        self.hidden.grad = self.lm_head.grad = None
        return answer


def compare(scratch: Path, vocab_size: int, hidden_size: int, num_targets: int, num_rounds: int) -> dict:
    """Compares times, and peak memory beyond the inputs and the head's gradient as a share of the logits' size."""
    file = scratch / f"log_probs_{vocab_size}_{hidden_size}_{num_targets}.safetensors"
    torch.manual_seed(5)
    hidden, lm_head = torch.randn(num_targets, hidden_size), torch.randn(vocab_size, hidden_size) / hidden_size**0.5
    target_ids = torch.randint(vocab_size, (num_targets,))
    save_file({"hidden": hidden, "lm_head": lm_head, "target_ids": target_ids}, file)
    head_bytes, input_bytes = 4 * lm_head.numel(), 4 * (lm_head.numel() + hidden.numel())
    del hidden, lm_head
    logits_bytes = 4 * num_targets * vocab_size

    result = {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_targets": num_targets}
    for head in ("frozen", "trained"):
        sides = [rust_side("ours", "log-probs", file, head), python_side("torch", "log_probs.py", file, head)]
        # The step that measures memory is also the warm-up, because a step takes long at these sizes.
        peaks = {side.name: side.peak_bytes() for side in sides}
        timings = alternate(sides, num_rounds, num_warm=0)
        check_agreement(*(timings[side.name].answers[0] for side in sides))
        own = input_bytes + (head_bytes if head == "trained" else 0)
        extra = {side.name: peaks[side.name] - side.empty_bytes() - own for side in sides}
        for side in sides:
            side.close()
        result[head] = {
            "seconds": {name: timing.summary() for name, timing in timings.items()},
            "ratio": ratio(timings["ours"], timings["torch"]),
            "extra_bytes": extra,
            "share_of_logits": {name: bytes_ / logits_bytes for name, bytes_ in extra.items()},
        }
    file.unlink()
    return result


def check_agreement(ours: dict, theirs: dict) -> None:
    for key in ("loss", "grad_hidden_norm", "grad_head_norm"):
        if theirs[key] is None and ours[key] is None:
            continue
        if not abs(ours[key] - theirs[key]) <= TOLERANCE * abs(theirs[key]):
            raise SystemExit(
                f"{key} is {ours[key]} here and {theirs[key]} with all logits: their times cannot be compared."
            )


if __name__ == "__main__":
    serve({"step": Materialised(Path(sys.argv[1]), sys.argv[2] == "trained").step})
