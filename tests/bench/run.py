"""Measures all figures of docs/benchmarks.md in one run. `make bench` calls it.

    run.py [--quick] [--only SECTION ...] [--out FILE]

The figures of each section are written to target/bench/<section>.json as soon as they are measured, and the report is
made from all of them at the end, so --only can measure a single section again. --quick measures smaller shapes fewer
times, to check that everything works, and reports to target/bench/quick.md; the report's text does not describe its
figures.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers
from transformers.utils import logging

import data_path
import log_probs
import report
from scenario import FULL, LORA
from sides import NUM_THREADS, PROGRAM, ROOT
from whole_step import compare_steps, sweep

RESULTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "bench"
PROMPT_COUNTS = (1, 2, 4, 6, 8)
VOCAB_SIZES = (8_000, 16_000, 32_000, 64_000, 128_000)


def full(scratch: Path, quick: bool) -> dict:
    return compare_steps(FULL, scratch, ["a", "b", "c", "c-huge", "matmul"], 2 if quick else 5)


def full_four_prompts(scratch: Path, quick: bool) -> dict:
    return compare_steps(FULL.with_(name="full-4", num_prompts=4), scratch, ["b", "c", "matmul"], 2 if quick else 5)


def lora(scratch: Path, quick: bool) -> dict:
    return compare_steps(LORA, scratch, ["b"], 2 if quick else 7)


def large_vocabulary(scratch: Path, quick: bool) -> dict:
    return log_probs.compare(scratch, 151_643, 1024, 256 if quick else 4096, 2)


def tokens(scratch: Path, quick: bool) -> dict:
    counts = PROMPT_COUNTS[:3] if quick else PROMPT_COUNTS
    scenarios = [FULL.with_(name=f"prompts-{count}", num_prompts=count) for count in counts]
    return sweep([(scenario.num_unique_tokens, scenario) for scenario in scenarios], scratch, 2 if quick else 3)


def vocabulary(scratch: Path, quick: bool) -> dict:
    sizes = VOCAB_SIZES[:3] if quick else VOCAB_SIZES
    scenarios = [(size, FULL.with_(name=f"vocabulary-{size}", vocab_size=size)) for size in sizes]
    return sweep(scenarios, scratch, 2 if quick else 5)


def records(scratch: Path, quick: bool) -> dict:
    return data_path.compare(scratch, 200 if quick else 500, 2 if quick else 5)


def data_memory(scratch: Path, quick: bool) -> dict:
    runs = []
    for gigabytes in (0.005, 0.02) if quick else (0.05, 0.2, 2.0):
        found = scratch / f"data_memory-{gigabytes}.json"
        # In a process without torch, because a parent's memory at the fork counts towards its child's peak.
        command = [sys.executable, ROOT / "ci" / "big_data.py", "--folder", scratch, "--gigabytes", str(gigabytes)]
        subprocess.run([*command, "--json", found], check=True)
        runs.append(json.loads(found.read_text()))
    return {"runs": runs}


SECTIONS = {
    section.__name__: section
    for section in (full, lora, full_four_prompts, large_vocabulary, tokens, vocabulary, records, data_memory)
}


def machine() -> dict:
    """What the figures were taken on and with."""
    cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    output = lambda *command: subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "cpu": next(
            (line.split(":")[1].strip() for line in cpu_info if line.startswith("model name")), platform.processor()
        ),
        "num_cpus": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": platform.release(),
        "rustc": output("rustc", "--version"),
        "commit": output("git", "rev-parse", "--short=12", "HEAD")
        + ("+" if output("git", "status", "--porcelain") else ""),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "num_threads": NUM_THREADS,
        "date": time.strftime("%Y-%m-%d"),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not PROGRAM.exists():
        raise SystemExit(f"{PROGRAM} is missing: run `cargo build --release --workspace`, or `make bench`, which does.")
    logging.disable_progress_bar()
    results = RESULTS / "quick" if options.quick else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    about = machine()
    if about["load_average"] > 0.5:
        print(f"The load average is {about['load_average']:.1f}: other work distorts the figures.", flush=True)
    with tempfile.TemporaryDirectory(dir=results) as scratch:
        for name in options.only:
            print(f"{name} ...", end=" ", flush=True)
            started = time.monotonic()
            figures = SECTIONS[name](Path(scratch), options.quick)
            # Each section records its machine, because it may be newer than the others.
            (results / f"{name}.json").write_text(json.dumps({"machine": about, "figures": figures}, indent=1) + "\n")
            print(f"{time.monotonic() - started:.0f} s", flush=True)
    missing = [name for name in SECTIONS if not (results / f"{name}.json").exists()]
    if missing:
        print(f"No report yet: {', '.join(missing)} not measured. The figures so far are in {results}.")
        return
    out = options.out or (RESULTS / "quick.md" if options.quick else ROOT / "docs" / "benchmarks.md")
    sections = {name: json.loads((results / f"{name}.json").read_text()) for name in SECTIONS}
    report.write(sections, out, is_quick=options.quick)
    print(f"The report is in {out}.")


if __name__ == "__main__":
    main()
