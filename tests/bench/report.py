"""Writes docs/benchmarks.md and its plots from the measured figures and the text in report.md."""

import json
import os
import subprocess
from pathlib import Path
from string import Template

import sides

HERE = Path(__file__).parent
# The report from here on is measured by others (chat_model.py, decoding.py, and machines with CUDA) and is kept.
KEPT_FROM = "\n## A chat model"


QUICK = (
    "**Measured with --quick, on smaller shapes and in fewer rounds: the targets do not apply to these figures.**\n\n"
)


def write(sections: dict[str, dict], out: Path, is_quick: bool) -> None:
    """Writes the report, and its plots into a folder with the report's name."""
    figures = {name: section["figures"] for name, section in sections.items()}
    words = {
        "machine": (QUICK if is_quick else "") + machine(sections),
        "summary": table(["", "figure", "measured", "target", ""], summary(figures)),
        "steps": steps(figures),
        "breakdown": breakdown(figures),
        "memory": memory(figures),
        "large_vocabulary": large_vocabulary(figures["large_vocabulary"]),
        "records": records(figures["records"]),
        "data_memory": data_memory(figures["data_memory"]),
        "criterion": criterion(),
        "r_squared_vocabulary": f"{figures['vocabulary']['r_squared']['ours']:.4f}",
        "plots": out.stem,
    }
    text = Template((HERE / "report.md").read_text()).substitute(words)
    if out.exists():
        before, heading, kept = out.read_text().partition(KEPT_FROM)
        if heading:
            text = text.partition(KEPT_FROM)[0] + heading + kept
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    plot(figures["tokens"], "tokens of a step", out.with_suffix("") / "tokens.svg")
    plot(figures["vocabulary"], "vocabulary", out.with_suffix("") / "vocabulary.svg")


def with_section(report: str, section: str) -> str:
    """Puts a section, which begins with its heading, in the place of the one with this heading."""
    heading = section.partition("\n")[0]
    before, found, rest = report.partition(f"\n{heading}\n")
    if not found:
        raise SystemExit(f"The report has no section {heading!r} to replace.")
    _, next_heading, after = rest.partition("\n## ")
    return f"{before}\n{section.rstrip()}\n{next_heading}{after}"


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine(sections: dict[str, dict]) -> str:
    abouts = {json.dumps(section["machine"], sort_keys=True): section["machine"] for section in sections.values()}
    lines = []
    for about in abouts.values():
        names = [name for name, section in sections.items() if section["machine"] == about]
        which = "" if len(abouts) == 1 else f" ({', '.join(names)})"
        lines.append(
            f"{about['date']}, commit {about['commit']}{which}: {about['cpu']}, {about['num_cpus']} CPUs, "
            f"{about['memory_gib']} GiB, Linux {about['kernel']}; {about['rustc']}, torch {about['torch']}, "
            f"transformers {about['transformers']}, peft {about['peft']}, Python {about['python']}; "
            f"{about['num_threads']} threads a process; load average at the start {about['load_average']:.1f}."
        )
    return "\n\n".join(lines)


def spread(ratio: dict, digits: int = 2) -> str:
    return f"{ratio['median']:.{digits}f} ({ratio['min']:.{digits}f} to {ratio['max']:.{digits}f})"


def inverse(ratio: dict) -> dict:
    return {"median": 1 / ratio["median"], "min": 1 / ratio["max"], "max": 1 / ratio["min"]}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def summary(figures: dict) -> list[list]:
    rows = []

    def add(number: int, what: str, measured: str, target: str, is_met: bool) -> None:
        rows.append([number, what, measured, target, "met" if is_met else "**missed**"])

    full, lora, vocabulary = figures["full"], figures["lora"], figures["large_vocabulary"]
    of_c = inverse(full["ratios"]["c"])
    add(1, "full step: (a) / ours", spread(full["ratios"]["a"]), "≥ 10", full["ratios"]["a"]["median"] >= 10)
    add(1, "full step: (b) / ours", spread(full["ratios"]["b"]), "≥ 2.5", full["ratios"]["b"]["median"] >= 2.5)
    add(1, "full step: ours / (c)", spread(of_c), "≤ 1.15", of_c["median"] <= 1.15)
    cache = f"; the cache takes {lora['reference_seconds']:.2f} s per prompt, once"
    huge = inverse(full["ratios"]["c-huge"])
    add(1, "the same, (c) also with huge pages", spread(huge), "≤ 1.15", huge["median"] <= 1.15)
    add(2, "LoRA step: (b) / ours", spread(lora["ratios"]["b"]) + cache, "≥ 3", lora["ratios"]["b"]["median"] >= 3)
    of_full = lora["seconds"]["ours"]["median"] / full["seconds"]["ours"]["median"]
    add(2, "LoRA step / full step, both ours", f"{of_full:.2f}", "≤ 0.75", of_full <= 0.75)
    for name, wanted in (("a", 10), ("b", 3)):
        found = full["memory_ratios"][name]
        add(3, f"peak memory of a full step: ({name}) / ours", f"{found:.1f}", f"≥ {wanted}", found >= wanted)
    for head, wanted in (("frozen", 1.15), ("trained", 1.4)):
        found = vocabulary[head]
        share = found["share_of_logits"]["ours"]
        add(4, f"log-probs, {head} head: memory / size of the logits", percent(share), "< 10 %", share < 0.1)
        is_met = found["ratio"]["median"] <= wanted
        add(4, f"log-probs, {head} head: time / materialised", spread(found["ratio"]), f"≤ {wanted}", is_met)
    shares = full["shares"]
    ours, floor = shares["ours"]["share"], shares["c"]["share"]
    add(
        5,
        "share of the matmul rate: ours, (c)",
        f"{percent(ours)}, {percent(floor)}",
        "at most 5 points below",
        ours >= floor - 0.05,
    )
    four = figures["full_four_prompts"]["shares"]["ours"]["share"]
    add(5, "the same, ours with four prompts", percent(four), "≥ 75 %", four >= 0.75)
    r_squared = figures["tokens"]["r_squared"]["ours"]
    add(6, "R² of step time over tokens", f"{r_squared:.4f}", "≥ 0.98", r_squared >= 0.98)
    peaks = [peak_bytes(run) for run in figures["data_memory"]["runs"]]
    growth = peaks[-1] / peaks[0]
    sizes = [f"{run['num_bytes'] / 1e6:.0f} MB" for run in figures["data_memory"]["runs"]]
    measured = f"{peaks[0] / 2**20:.0f} MiB at {sizes[0]}, {peaks[-1] / 2**20:.0f} MiB at {sizes[-1]}"
    add(6, "peak of converting and tokenising", measured, "< 1 GiB, no growth", max(peaks) < 2**30 and growth < 1.25)
    ratio = figures["records"]["without-tokenising"]["ratio"]
    add(7, "conversion and collation: paper's / ours", spread(ratio, 0), "≥ 20", ratio["median"] >= 20)
    return rows


def steps(figures: dict) -> str:
    titles = {"full": "full, 1 prompt", "full_four_prompts": "full, 4 prompts", "lora": "LoRA (rank 8), 1 prompt"}
    rows = []
    for section, title in titles.items():
        for name, timing in figures[section]["seconds"].items():
            if name == "matmul":
                continue
            share = figures[section].get("shares", {}).get(name)
            rows.append(
                [
                    title,
                    {"ours": "ours", "c-huge": "(c) with huge pages"}.get(name, f"({name})"),
                    f"{timing['median']:.3f}",
                    f"{timing['min']:.3f} to {timing['max']:.3f}",
                    f"{timing['cpu_median']:.2f}",
                    percent(share["share"]) if share else "",
                ]
            )
    text = table(["step", "side", "median s", "spread s", "CPU s", "share of the matmul rate"], rows)
    rates = {
        titles[name]: figures[name]["shares"]["matmul_flops_per_second"] for name in titles if "shares" in figures[name]
    }
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s ({title})" for title, rate in rates.items())
    agreement = [figures[name]["agreement"] for name in titles]
    worst = {key: max(found[key] for found in agreement) for key in ("loss", "grad_norm")}
    return (
        f"{text}\n\nMatmul rate at the model's shapes in the same runs: {rates}. Largest relative differences of ours "
        f"from (a) and (b) over all steps: loss {worst['loss']:.1e}, gradient norm {worst['grad_norm']:.1e}."
    )


def breakdown(figures: dict) -> str:
    parts = figures["full"]["breakdown"]
    rows = [[part, *(f"{figures[name]['breakdown'][part]:.3f}" for name in ("full", "lora"))] for part in parts]
    return table(["part of our step", "full s", "LoRA s"], rows)


def memory(figures: dict) -> str:
    rows = []
    for section, title in (("full", "full"), ("full_four_prompts", "full, 4 prompts"), ("lora", "LoRA")):
        extra = figures[section]["extra_bytes"]
        mib = {name: f"{extra[name] / 2**20:.0f}" if name in extra else "" for name in ("ours", "a", "b", "c")}
        rows.append([title, *mib.values()])
    return table(["step", "ours MiB", "(a) MiB", "(b) MiB", "(c) MiB"], rows)


def large_vocabulary(figure: dict) -> str:
    rows = []
    for head in ("frozen", "trained"):
        for name in ("ours", "torch"):
            timing, extra = figure[head]["seconds"][name], figure[head]["extra_bytes"][name]
            share = percent(figure[head]["share_of_logits"][name])
            rows.append([head, name, f"{timing['median']:.2f}", f"{extra / 2**20:.0f}", share])
    shape = f"V = {figure['vocab_size']:,}, H = {figure['hidden_size']:,}, {figure['num_targets']:,} targets:"
    return f"{shape}\n\n" + table(["head", "side", "median s", "extra MiB", "share of the logits"], rows)


def records(figure: dict) -> str:
    megabytes = figure["file_bytes"] / 1e6
    rows = []
    titles = {
        "without-tokenising": "conversion and collation, our packed layout",
        "expanded": "the same, both with the paper's 16 rows",
        "with-tokenising": "records to batches, with tokenisation",
    }
    for key, title in titles.items():
        found = figure[key]
        times = [f"{found['seconds'][name]['median']:.3f}" for name in ("ours", "paper")]
        rows.append([title, *times, spread(found["ratio"], 1)])
    parts = figure["without-tokenising"]
    convert, collate = parts["convert_seconds"], parts["collate_seconds"]
    return (
        f"{figure['num_records']} records, {megabytes:.1f} MB:\n\n"
        + table(["", "ours s", "paper's s", "ratio"], rows)
        + f"\n\nConversion takes {convert['ours']:.3f} s compared with {convert['paper']:.3f} s, collation "
        f"{collate['ours']:.3f} s compared with {collate['paper']:.3f} s."
    )


def peak_bytes(run: dict) -> int:
    return max(measured["peak_bytes"] for measured in run["measured"].values())


def data_memory(figure: dict) -> str:
    rows = []
    for run in figure["runs"]:
        for what, measured in run["measured"].items():
            seconds, peak = measured["seconds"], measured["peak_bytes"]
            rate = run["num_bytes"] / seconds / 1e6
            rows.append(
                [f"{run['num_bytes'] / 1e6:.0f}", what, f"{seconds:.1f}", f"{rate:.1f}", f"{peak / 2**20:.0f}"]
            )
    return table(["records MB", "command", "s", "MB/s", "peak MiB"], rows)


def criterion() -> str:
    """Table of the medians of the last `cargo bench`."""
    folder = sides.PROGRAM.parent.parent / "criterion"
    rows = []
    for file in sorted(folder.glob("**/new/estimates.json")):
        median = json.loads(file.read_text())["median"]
        interval = median["confidence_interval"]
        name = json.loads((file.parent / "benchmark.json").read_text())["full_id"]
        low, high = milliseconds(interval["lower_bound"]), milliseconds(interval["upper_bound"])
        rows.append([name, milliseconds(median["point_estimate"]), f"{low} to {high}"])
    if not rows:
        return "Not measured: there are no results of `cargo bench`."
    return table(["benchmark", "median ms", "95 % interval of the median"], rows)


def milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3g}"


def plot(figure: dict, x_name: str, out: Path) -> None:
    """Draws the plot with the program `bench`, which has a library for it."""
    series = {name: points for name, points in figure["points"].items()}
    request = {"title": f"step time over {x_name}", "x": x_name, "y": "seconds per step", "series": series}
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sides.PROGRAM, "plot", os.fspath(out)], input=json.dumps(request), text=True, check=True)
