"""Writes the section "A chat model" of docs/benchmarks.md from the figures of chat_model.py and the text in chat.md."""

import textwrap
from pathlib import Path
from string import Template

from report import QUICK, percent, spread, table

HERE = Path(__file__).parent
SIDES = {
    "ours": "our step",
    "peft": "Transformers with PEFT",
    "lambda": "our step with a λ-adapter",
    "nf4": "our step with weights in NF4",
    "forward": "forward pass of the step's rows",
    "hidden": "the same without log-probs",
}
SCORING = {
    "forward": "forward pass of the held-out records",
    "reference": "reference pass",
    "score": "`score`",
    "steer": "a pass of `steer`",
}


def section(figures: dict, about: dict, is_quick: bool) -> str:
    """The section as text."""
    dtypes = figures["dtypes"]
    steps, scoring = dtypes["float32"]["steps"], dtypes["float32"]["scoring"]
    counts = {
        **steps["shape"],
        "num_parameters": round(steps["shape"]["num_parameters"] / 1e6),
        "num_tokens": steps["num_tokens"],
        "num_their_row_tokens": steps["num_their_row_tokens"],
        "num_records": scoring["num_records"],
        "num_scored": scoring["num_tokens"],
        "num_rows": scoring["num_rows"],
    }
    text = Template((HERE / "chat.md").read_text()).substitute(
        {name: f"{count:,}" for name, count in counts.items()},
        **{name: figures[name] for name in ("name", "rank", "num_prompts", "least", "most", "num_passes")},
        num_threads=about["num_threads"],
        num_step_rounds=figures["num_rounds"],
        num_scoring_rounds=figures["num_scoring_rounds"],
        machine=(QUICK if is_quick else "") + machine(about),
        targets=targets(figures, about),
        lengths=lengths(figures["lengths"]),
        agreement="; ".join(agreement(dtype, found) for dtype, found in dtypes.items()),
        step_flops=f"{steps['flops_ratios']['forward']:.2f}",
        hidden_flops=f"{steps['flops_ratios']['hidden']:.2f}",
        their_flops=f"{steps['flops_ratios']['peft']:.1f}",
        their_rate=f"{steps['flops_ratios']['peft'] / 6.5:.1f}",
        seconds=seconds(dtypes),
        breakdown=breakdown(dtypes),
    )
    return "\n\n".join(filled(block) for block in text.strip().split("\n\n")) + "\n"


def filled(block: str) -> str:
    """A paragraph with its lines as long as in the rest of the report; tables and headings stay as they are."""
    if block.startswith(("|", "#")):
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def machine(about: dict) -> str:
    has = {"AMX": about["has_amx"], "AVX-512 BF16": about["has_avx512_bf16"]}
    features = ", ".join(f"{'with' if is_there else 'without'} {name}" for name, is_there in has.items())
    return (
        f"{about['date']}, commit {about['commit']}: {about['cpu']} ({features}), {about['num_cpus']} CPUs, "
        f"{about['memory_gib']} GiB; torch {about['torch']}, transformers {about['transformers']}, peft {about['peft']}; "
        f"load average at the start {about['load_average']:.1f}."
    )


def targets(figures: dict, about: dict) -> str:
    """Table of what was promised: measured, the target, and whether it is met."""
    rows = []

    def add(what: str, dtype: str, measured: str, target: str, is_met: bool) -> None:
        rows.append([what, dtype, measured, target, "met" if is_met else "**not met**"])

    for dtype, found in figures["dtypes"].items():
        ratios, share = found["steps"]["ratios"], found["steps"]["shares"]["ours"]["share"]
        peft, forward, with_lambda = ratios["peft"], ratios["forward"], ratios["lambda"]
        add("LoRA step: Transformers with PEFT / ours", dtype, spread(peft), "≥ 6.5", peft["median"] >= 6.5)
        add("our step / our forward pass", dtype, spread(forward), "≤ 2.5", forward["median"] <= 2.5)
        rows.append(["our step / our forward pass without log-probs", dtype, spread(ratios["hidden"]), "", ""])
        what = "our step: share of the matmul rate"
        if dtype == "float32":
            add(what, dtype, percent(share), "≥ 60 %", share >= 0.6)
        elif about["has_amx"]:
            add(what, dtype, percent(share), "≥ 30 %", share >= 0.3)
        else:
            rows.append([what, dtype, percent(share), "≥ 30 % with AMX", "no AMX here"])
        add("our step: λ-adapter / LoRA", dtype, spread(with_lambda), "≤ 1.10", with_lambda["median"] <= 1.1)
        if "nf4" in ratios:
            nf4 = ratios["nf4"]
            add("our step: NF4 / weights in 16 bits", dtype, spread(nf4), "≤ 1.25", nf4["median"] <= 1.25)
        for name, ratio in found["scoring"]["ratios"].items():
            add(f"{SCORING[name]} / forward pass", dtype, spread(ratio), "≤ 1.2", ratio["median"] <= 1.2)
    return table(["figure", "dtype", "measured", "target", ""], rows)


def lengths(prompts: list[list[int]]) -> str:
    """Lengths in tokens, each prompt's before its answers'."""
    listed = lambda numbers: f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return "; ".join(f"a prompt of {prompt} with answers of {listed(answers)}" for prompt, *answers in prompts)


def agreement(dtype: str, found: dict) -> str:
    worst, allowed = found["steps"]["agreement"], found["tolerances"]
    parts = (f"{worst[key]:.1e} of {allowed[key]:.0e} for the {key.replace('grad_', 'gradient ')}" for key in allowed)
    return f"in {dtype} they differ by at most {' and '.join(parts)}"


def seconds(dtypes: dict) -> str:
    rows = []
    for part, titles in (("steps", SIDES), ("scoring", SCORING)):
        for name, title in titles.items():
            for dtype, found in dtypes.items():
                if name not in found[part]["seconds"]:
                    continue
                timing = found[part]["seconds"][name]
                cpu = "" if timing["cpu_median"] is None else f"{timing['cpu_median']:.2f}"
                spread_of = f"{timing['min']:.3f} to {timing['max']:.3f}"
                rows.append([title, dtype, f"{timing['median']:.3f}", spread_of, cpu])
    rates = (
        f"{found['steps']['shares']['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s in {dtype}"
        for dtype, found in dtypes.items()
    )
    text = table(["", "dtype", "median s", "spread s", "CPU s"], rows)
    return f"{text}\n\nMatmul rate at the model's shapes in the same rounds: {', '.join(rates)}."


def breakdown(dtypes: dict) -> str:
    parts = dtypes["float32"]["steps"]["breakdown"]
    rows = [[part, *(f"{found['steps']['breakdown'][part]:.3f}" for found in dtypes.values())] for part in parts]
    return table(["part of our step", *(f"{dtype} s" for dtype in dtypes)], rows)
