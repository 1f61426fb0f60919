"""Compares steps of `LambdaDPOTrainer` (packed rows, cached reference, fused head) with a Trainer's on padded rows.

The other side is what a careful user would write by hand: each response once as a padded row, the reference model run
in each step, log-probs from materialised logits. Both train the same 21-million-parameter Llama on the same records, in
separate processes that take turns. Run it in the environment that `make test-python` creates:

    .venvs/trainer/bin/python tests/bench/hf_trainer.py
"""

import json
import statistics
import time
from pathlib import Path

from turns import take_turns

SIDES = ("ours", "rows")
PROMPT_LENGTH, RESPONSE_LENGTHS = 200, (150, 240, 310, 380)
NUM_THREADS, NUM_WARM = 2, 2
LOSS_TOLERANCE = 1e-4


def features(vocab_size, count):
    """Tokenised samples with UltraFeedback-like lengths; both sides get the same targets."""
    import torch

    generator = torch.Generator().manual_seed(1)

    def ids(length):
        return torch.randint(3, vocab_size, (length,), generator=generator).tolist()

    def target():
        return torch.randn(len(RESPONSE_LENGTHS), generator=generator).softmax(0).tolist()

    return [
        {
            "record": record,
            "prompt_ids": ids(PROMPT_LENGTH),
            "response_ids": [ids(length) for length in RESPONSE_LENGTHS],
            "response_indices": list(range(len(RESPONSE_LENGTHS))),
            "pi_target": [target() for _ in range(4)],
        }
        for record in range(count)
    ]


def padded_rows_trainer(base):
    """LambdaDPOTrainer with a loss in plain PyTorch instead of its own."""
    import torch
    import torch.nn.functional as F

    class PaddedRows(base):
        def _log_probs(self, model, batch):
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            token_log_probs = logits.float().log_softmax(-1).flatten(0, 1)[batch["target_positions"], batch["target_ids"]]
            sums = torch.zeros(batch["sequence_num_tokens"].numel())
            return sums.index_add(0, batch["target_sequences"], token_log_probs)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with torch.no_grad():
                reference = self._log_probs(self.ref_model, inputs)
            rewards = self.options.beta * (self._log_probs(model, inputs) - reference)  # one prompt: [N]
            mixed = (inputs["lambda"][0, :, None] * inputs["pi_target"]).sum(0)
            return -(mixed * F.log_softmax(rewards, dim=0)).sum()

    return PaddedRows


def side(name, model_folder, num_steps):
    """Runs one side in this process; prints its step times, losses and peak memory."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, TrainerCallback

    from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer

    torch.set_num_threads(NUM_THREADS)
    imports = peak_bytes()

    class Clock(TrainerCallback):
        times = []

        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.times.append(time.perf_counter() - self.start)

    class Tokenizer:
        pad_token_id = eos_token_id = 0

    is_ours = name == "ours"
    total = NUM_WARM + num_steps
    args = LambdaDPOConfig(
        output_dir=model_folder + "-out",
        max_steps=total,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dimensions=["a", "b", "c", "d"],
        layout="packed" if is_ours else "rows",
        precompute_ref_log_probs=is_ours,
    )
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    trainer = (LambdaDPOTrainer if is_ours else padded_rows_trainer(LambdaDPOTrainer))(
        model,
        args=args,
        train_dataset=datasets.Dataset.from_list(features(model.config.vocab_size, total)),
        processing_class=Tokenizer(),
        callbacks=[Clock],
    )
    trainer.save_model = lambda *args, **kwargs: None
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    memory = {"peak_bytes": peak_bytes(), "imports_bytes": imports}
    print(json.dumps({"secs": Clock.times[NUM_WARM:], "losses": losses, **memory}))


def peak_bytes():
    """Peak resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def write_model(folder):
    """Writes a Llama of docs/method.md's 21-million-parameter shape with random weights."""
    import torch
    from scenario import Scenario
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Scenario("hf")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def main():
    results = take_turns(__doc__, __file__, SIDES, 2, NUM_THREADS, write_model, side)
    if results is None:
        return
    ours, rows = results["ours"], results["rows"]
    for mine, theirs in zip(ours[0]["losses"], rows[0]["losses"], strict=True):
        # Not `>`, which NaN would pass.
        if not abs(mine - theirs) <= LOSS_TOLERANCE:
            raise SystemExit(f"The losses are {mine} and {theirs}: times of different steps cannot be compared.")
    secs = {name: statistics.median(sum((run["secs"] for run in runs), [])) for name, runs in results.items()}
    peak = {name: max(run["peak_bytes"] for run in runs) / 2**20 for name, runs in results.items()}
    own = {name: max(run["peak_bytes"] - run["imports_bytes"] for run in runs) / 2**20 for name, runs in results.items()}
    print(f"step: {secs['ours']:.3f} s, padded rows {secs['rows']:.3f} s: {secs['rows'] / secs['ours']:.2f}× faster")
    for what, mib in [("peak memory", peak), ("peak memory without the imports", own)]:
        share = mib["ours"] / mib["rows"]
        print(f"{what}: {mib['ours']:.0f} MiB, padded rows {mib['rows']:.0f} MiB: {share:.2f}× as much")


if __name__ == "__main__":
    main()
