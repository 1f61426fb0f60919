"""Converts and tokenises 2 GB of records with the release build, and fails if that takes 1 GiB of memory or more.

Usage: big_data.py [--gigabytes 2] [--folder DIR] [--json FILE]

DIR (default: the folder for temporary files) needs three times that much space. The figures are written to FILE.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT_BYTES = 1 << 30
WORDS = (
    "the answer to this question depends on several things that are worth naming before any of them is weighed "
    "against another one and so we begin with what is known and come later to what is only likely or hoped for"
).split()


def text(seed: int, num_words: int) -> str:
    """Returns words in random order. A linear congruential generator is random enough, and fast."""
    words = []
    for _ in range(num_words):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        words.append(WORDS[(seed >> 33) % len(WORDS)])
    return " ".join(words)


def write_records(path: pathlib.Path, num_bytes: int) -> int:
    """Writes records with UltraFeedback's schema and lengths: prompts of 150 words, responses of 100 to 400.

    Returns their number.
    """
    # Drawing words would take longer than everything else, so texts come from a pool, numbered to make each unique.
    pool = [text(seed, 100 + seed * 37 % 300) for seed in range(512)]
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    num_records = written = 0
    with path.open("w") as file:
        while written < num_bytes:
            completions = [
                {
                    "model": f"model-{i}",
                    "response": f"{num_records}: {pool[(num_records * 4 + i * 131) % len(pool)]}",
                    "annotations": {
                        name: {"Rating": str(1 + (num_records + i * k) % 5), "Rationale": pool[(i + k) % len(pool)][:200]}
                        for k, name in enumerate(names, start=1)
                    },
                }
                for i in range(4)
            ]
            record = {
                "source": "big_data",
                "instruction": f"Question {num_records}. {pool[num_records % len(pool)][:900]}",
                "completions": completions,
            }
            line = json.dumps(record) + "\n"
            written += len(line)
            num_records += 1
            file.write(line)
    return num_records


def measure(command: list[str], environment: dict[str, str]) -> dict:
    """Runs a command in its own child process, so that its peak memory is measured separately.

    The kernel counts this process's memory at the fork towards the child's peak, so this process must stay small and
    import little.
    """
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execve(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"the command failed: {' '.join(command)}")
    return {"seconds": time.monotonic() - started, "peak_bytes": usage.ru_maxrss * 1024}


def run(parent: pathlib.Path | None, num_bytes: int) -> dict:
    """Converts records of at least this size, trains a step on them, and trains it again from the cache."""
    program = str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "lambda-dpo")
    folder = pathlib.Path(tempfile.mkdtemp(dir=parent))
    try:
        records = folder / "records.jsonl"
        num_records = write_records(records, num_bytes)
        found = {"num_records": num_records, "num_bytes": records.stat().st_size, "measured": {}}
        environment = {**os.environ, "LAMBDA_DPO_CACHE": str(folder / "cache")}

        def note(what: str, command: list[str]) -> None:
            measured = measure(command, environment)
            found["measured"][what] = measured
            rate = found["num_bytes"] / measured["seconds"] / 1e6
            peak = measured["peak_bytes"] / (1 << 20)
            print(f"{what}: {measured['seconds']:.0f} s, {rate:.1f} MB/s, peak {peak:.0f} MiB", flush=True)

        note("convert", [program, "convert", "--records", str(records), "--out", str(folder / "samples.jsonl")])
        (folder / "samples.jsonl").unlink()
        model = ROOT / "fixtures" / "demo" / "sft-model"
        (folder / "run.toml").write_text(
            f'stage = "lambda_dpo"\noutput_dir = "run"\nreference.kind = "none"\n'
            f'[model]\npath = "{model}"\ndevice = "cpu"\n'
            f'[data]\nrecords = ["records.jsonl"]\n'
            f"[train]\nmax_steps = 1\nper_device_train_batch_size = 1\n"
        )
        for what in ["tokenise and train a step", "the same from the cache"]:
            shutil.rmtree(folder / "run", ignore_errors=True)
            note(what, [program, "train", str(folder / "run.toml")])
        return found
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--locked", "--workspace"], cwd=ROOT, check=True)
    found = run(arguments.folder, int(arguments.gigabytes * 1e9))
    print(f"{found['num_records']} records, {found['num_bytes'] / 1e9:.2f} GB", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    if any(measured["peak_bytes"] >= LIMIT_BYTES for measured in found["measured"].values()):
        sys.exit(f"a command took {LIMIT_BYTES >> 20} MiB of memory or more")


if __name__ == "__main__":
    main()
