"""Compares steps of `LambdaDPOTrainer` with a λ-adapter and with a LoRA of the same total rank.

Both train the 21-million-parameter Llama of `hf_trainer.py` on the same records, packed, with a precomputed reference,
in separate processes that take turns. Run it in the environment that `make test-python` creates:

    .venvs/trainer/bin/python tests/bench/lambda_step.py

It ends with an error if the λ-adapter's step takes more than `LIMIT` times as long.
"""

import json
import statistics
import time

from hf_trainer import NUM_THREADS, NUM_WARM, features, write_model
from turns import take_turns

SIDES = ("lambda", "lora")
DIMENSIONS = ["a", "b", "c", "d"]
SHARED_RANK, RANK_PER_DIMENSION = 4, 8
LIMIT = 1.15


def adapter(name):
    """Configuration of a side's adapter."""
    from peft import LoraConfig

    from lambda_dpo import LambdaLoraConfig

    if name == "lambda":
        return LambdaLoraConfig(r=SHARED_RANK, rank_per_dimension=RANK_PER_DIMENSION)
    total = SHARED_RANK + len(DIMENSIONS) * RANK_PER_DIMENSION
    return LoraConfig(r=total, lora_alpha=2 * total, target_modules="all-linear", task_type="CAUSAL_LM")


def side(name, model_folder, num_steps):
    """Runs one side in this process; prints its step times and number of trained weights."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, TrainerCallback

    from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer

    torch.set_num_threads(NUM_THREADS)

    class Clock(TrainerCallback):
        times = []

        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.times.append(time.perf_counter() - self.start)

    class Tokenizer:
        pad_token_id = eos_token_id = 0

    total = NUM_WARM + num_steps
    args = LambdaDPOConfig(
        output_dir=model_folder + "-out",
        max_steps=total,
        per_device_train_batch_size=1,
        learning_rate=1e-4,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dimensions=DIMENSIONS,
        precompute_ref_log_probs=True,
    )
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    trainer = LambdaDPOTrainer(
        model,
        args=args,
        train_dataset=datasets.Dataset.from_list(features(model.config.vocab_size, total)),
        processing_class=Tokenizer(),
        callbacks=[Clock],
        peft_config=adapter(name),
    )
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    trainer.train()
    print(json.dumps({"secs": Clock.times[NUM_WARM:], "trained": trained}))


def main():
    results = take_turns(__doc__, __file__, SIDES, 3, NUM_THREADS, write_model, side)
    if results is None:
        return
    if results["lambda"][0]["trained"] != results["lora"][0]["trained"]:
        raise SystemExit("The adapters have different numbers of weights, so their times cannot be compared.")
    secs = {name: statistics.median(sum((run["secs"] for run in runs), [])) for name, runs in results.items()}
    share = secs["lambda"] / secs["lora"]
    print(f"step: {secs['lambda']:.3f} s with a λ-adapter, {secs['lora']:.3f} s with a LoRA of its rank: {share:.3f}×")
    if not share <= LIMIT:
        raise SystemExit(f"A λ-adapter's step should take at most {LIMIT} times as long as a LoRA's.")


if __name__ == "__main__":
    main()
