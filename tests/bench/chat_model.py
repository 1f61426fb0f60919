"""Measures training and scoring on a real chat model and real texts, and writes the section "A chat model" of
docs/benchmarks.md. `make bench-chat MODEL=DIR` calls it.

    chat_model.py MODEL RECORDS [--quick] [--out FILE]

RECORDS is a folder that ci/paper/text/records.py wrote. The figures are written to target/bench/chat.json, then the section
into FILE, which is a copy of the report if it is not there. --quick measures little text in one round, to check that
everything works, and writes to target/bench/quick; its figures mean nothing.

All sides are processes with the same number of threads that take turns within a round, first in float32, then in
bfloat16. The first round is a warm-up. No time counts unless the losses and gradient norms agree.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers.utils import logging

import chat_report
import report
from chat_scenario import ChatScenario, LambdaScenario, Tokenized, read_records
from chat_scoring import NUM_STEER_PASSES, compare_scoring
from run import RESULTS, machine
from sides import PROGRAM, ROOT, Side, python_side, ratio, run_rounds, rust_side
from whole_step import TOLERANCES, check_agreement, close, median_of, shares

RANK = 8
NUM_PROMPTS = 2
# Tokens of the records of a step, of which the first in a row that fit are taken.
LEAST_TOKENS, MOST_TOKENS = 760, 840
# Relative. In float32 those of all comparisons. A bfloat16 has 8 bits, so each rounding is off by up to 0.4 %, in each
# of some hundred operations in a row, and the sides round in different places: theirs rounds the logits, too, and
# computes the adapter in float32. So mean log-probs differ by some hundredths, and losses and gradient norms by what
# these make of them: by up to 0.6 % and 3 % in steps of SmolLM2. The limits, those of tests/gpu/check.py, are some three
# times that.
TOLERANCES_OF = {"float32": TOLERANCES, "bfloat16": {"loss": 2e-2, "grad_norm": 1e-1}}
SHAPE = ("num_parameters", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "vocab_size")
NUM_STEP_ROUNDS, NUM_SCORING_ROUNDS = 7, 3


def of_a_step(records: list[Tokenized]) -> list[Tokenized]:
    """The first records in a row whose tokens come to about 800."""
    for start in range(len(records) - NUM_PROMPTS + 1):
        chosen = records[start : start + NUM_PROMPTS]
        if LEAST_TOKENS <= sum(record.num_tokens for record in chosen) <= MOST_TOKENS:
            return chosen
    raise SystemExit(
        f"No {NUM_PROMPTS} records in a row have {LEAST_TOKENS} to {MOST_TOKENS} tokens: make more records."
    )


def open_sides(lora: ChatScenario, scratch: Path) -> dict[str, Side]:
    """Opens our step and theirs with the LoRA, ours with a λ-adapter, the products, and in bfloat16 ours in NF4."""
    model, records, dtype = lora.source, list(lora.records), lora.dtype
    lora_folder = lora.write(scratch)
    with_lambda = LambdaScenario.of(
        model, records, name="lambda", dtype=dtype, lora_rank=RANK, adapted_dimensions=tuple(lora.dimensions)
    )
    quantized = replace(lora, name="nf4", quantize="nf4")
    in_nf4 = {"nf4": rust_side("nf4", "step", quantized.write(scratch))} if dtype == "bfloat16" else {}
    return in_nf4 | {
        "ours": rust_side("ours", "step", lora_folder),
        "peft": python_side("peft", "oracles.py", "b", lora_folder),
        "lambda": rust_side("lambda", "step", with_lambda.write(scratch)),
        "matmul": python_side("matmul", "matmul.py", lora_folder),
    }


def compare_steps(model: Path, records: list[Tokenized], dtype: str, scratch: Path, num_rounds: int) -> dict:
    """Compares our step with Transformers' and PEFT's, with the λ-adapter's, a forward pass and the bare products."""
    lora = ChatScenario.of(model, records, name="lora", dtype=dtype, lora_rank=RANK)
    sides = open_sides(lora, scratch)
    turns = {
        "ours": partial(sides["ours"].ask, "step"),
        "peft": partial(sides["peft"].ask, "step"),
        "lambda": partial(sides["lambda"].ask, "step"),
        "forward": partial(sides["ours"].ask, "forward"),
        "hidden": partial(sides["ours"].ask, "hidden"),
        "matmul": partial(sides["matmul"].ask, "step"),
    }
    if "nf4" in sides:
        turns["nf4"] = partial(sides["nf4"].ask, "step")
    warm_up = {name: turn() for name, turn in turns.items()}
    check_lambda(warm_up["lambda"]["loss"], warm_up["ours"]["loss"], TOLERANCES_OF[dtype]["loss"])
    timings = run_rounds(turns, num_rounds, num_warm=0)
    agreement = check_agreement(timings, ["peft"], TOLERANCES_OF[dtype])
    breakdown = median_of([sides["ours"].ask("breakdown") for _ in range(num_rounds)])
    close(list(sides.values()))
    return {
        **sizes(lora),
        "agreement": agreement,
        "seconds": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {
            "peft": ratio(timings["peft"], timings["ours"]),
            "forward": ratio(timings["ours"], timings["forward"]),
            "hidden": ratio(timings["ours"], timings["hidden"]),
            **{name: ratio(timings[name], timings["ours"]) for name in ("lambda", "nf4") if name in timings},
        },
        "shares": shares(lora, timings),
        "breakdown": breakdown,
    }


def sizes(lora: ChatScenario) -> dict:
    """The model's shape, the tokens of a step, and its operations as a multiple of the forward pass's."""
    their_rows = [len(record.prompt) + len(response) for record in lora.records for response in record.responses]
    layers, attention, head = lora.forward_flops(lora.tree_pairs())
    return {
        "shape": {name: getattr(lora, name) for name in SHAPE},
        "num_tokens": lora.num_unique_tokens,
        "num_targets": lora.num_targets,
        "num_their_row_tokens": len(their_rows) * padded_length(their_rows),
        "flops_ratios": {
            "forward": lora.step_flops(lora.tree_pairs()) / (layers + attention + head),
            "hidden": lora.step_flops(lora.tree_pairs()) / (layers + attention),
            "peft": padded_flops(lora, their_rows) / lora.step_flops(lora.tree_pairs()),
        },
    }


def padded_flops(lora: ChatScenario, lengths: list[int]) -> int:
    """Operations of a step with padded rows: the reference's forward pass, and a forward and a backward pass, all with
    logits at every position."""
    width = padded_length(lengths)
    num_tokens, num_pairs = len(lengths) * width, len(lengths) * width * (width + 1) // 2
    layers, attention, head = lora.forward_flops_of(num_tokens, num_pairs, num_tokens)
    return 3 * (layers + head) + 4 * attention


def check_lambda(with_lambda: float, lora: float, tolerance: float) -> None:
    """Checks the loss of the first step, before any update: at the run's λ the λ-adapter is the LoRA."""
    # Not `>`, which NaN would pass.
    if not abs(with_lambda - lora) <= tolerance * abs(lora):
        raise SystemExit(
            f"The loss is {with_lambda} with the λ-adapter and {lora} with the LoRA: they are not the same."
        )


def padded_length(lengths: list[int]) -> int:
    """Length of rows that are padded to the longest and a multiple of 8."""
    return -(-max(lengths) // 8) * 8


def measure(model: Path, records: Path, quick: bool) -> dict:
    """Measures everything, in one dtype after the other."""
    train, held_out = read_records(records / "records.jsonl", model), read_records(records / "eval.jsonl", model)
    num_step_rounds, num_scoring_rounds = NUM_STEP_ROUNDS, NUM_SCORING_ROUNDS
    step_records = of_a_step(train)
    if quick:
        num_step_rounds = num_scoring_rounds = 1
        step_records, held_out = [max(step_records, key=lambda record: record.num_tokens)], held_out[:3]
    dtypes = {}
    for dtype, tolerances in TOLERANCES_OF.items():
        with tempfile.TemporaryDirectory() as scratch:
            steps = compare_steps(model, step_records, dtype, Path(scratch), num_step_rounds)
            scoring = compare_scoring(model, held_out, dtype, Path(scratch), num_scoring_rounds)
        dtypes[dtype] = {"tolerances": tolerances, "steps": steps, "scoring": scoring}
        print(f"{dtype}: done", flush=True)
    return {
        "name": model.name,
        "rank": RANK,
        "num_rounds": num_step_rounds,
        "num_scoring_rounds": num_scoring_rounds,
        "num_passes": NUM_STEER_PASSES,
        "num_prompts": NUM_PROMPTS,
        "least": LEAST_TOKENS,
        "most": MOST_TOKENS,
        "lengths": [[len(record.prompt), *map(len, record.responses)] for record in step_records],
        "dtypes": dtypes,
    }


def processor() -> dict:
    """What of the processor decides how fast products in bfloat16 are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return {"has_amx": "amx_bf16" in flags, "has_avx512_bf16": "avx512_bf16" in flags}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not PROGRAM.with_name("lambda-dpo").exists():
        raise SystemExit(f"{PROGRAM.parent} has no lambda-dpo: run `make bench-chat MODEL=DIR`, which builds it.")
    logging.disable_progress_bar()
    about = machine() | processor()
    figures = measure(options.model.resolve(), options.records, options.quick)
    results = RESULTS / "quick" if options.quick else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    (results / "chat.json").write_text(json.dumps({"machine": about, "figures": figures}, indent=1) + "\n")
    text = chat_report.section(figures, about, is_quick=options.quick)
    published = ROOT / "docs" / "benchmarks.md"
    out = options.out or (results / "chat.md" if options.quick else published)
    out.write_text(report.with_section((out if out.exists() else published).read_text(), text))
    print(f"The section is in {out}.")


if __name__ == "__main__":
    main()
