"""The torture campaign sees what it is there to see: panics, signals, hangs, unclear messages, leftovers."""

import importlib
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent / "torture"


@pytest.fixture(autouse=True)
def campaign_modules(monkeypatch):
    """The campaign's modules have plain names, which other scripts have too."""
    names = [path.stem for path in HERE.glob("*.py")]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def run(tmp_path, script, seconds=10.0):
    """Runs a script in the program's place."""
    program = importlib.import_module("program")
    binary = tmp_path / "program.sh"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    limits = program.Limits(seconds=seconds)
    return program.Program(binary, binary).run(["score"], cwd=tmp_path, limits=limits), limits


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'error: a.json does not parse' >&2; exit 1", None),
        ("exit 0", None),
        ("echo 'error: that does not work' >&2; exit 1", "its error names none of a.json"),
        ("printf 'error: a.json is bad\\nfor two reasons\\n' >&2; exit 1", "its error has 2 lines instead of one"),
        ("exit 1", "failed without a line `error: …`"),
        ("exit 101", "ended with exit status 101"),
        ("echo \"thread 'main' panicked at src/a.rs:1:2\" >&2; exit 1", "panicked: stderr has 'panicked at'"),
        ("kill -SEGV $$", "ended by SIGSEGV"),
    ],
)
def test_outcomes_are_judged(tmp_path, script, problem):
    verdict = importlib.import_module("verdict")
    outcome, limits = run(tmp_path, script)
    assert verdict.judge(outcome, ["a.json"], limits) == problem


def test_a_hang_is_found(tmp_path):
    verdict = importlib.import_module("verdict")
    outcome, limits = run(tmp_path, "exec sleep 60", seconds=0.2)
    assert verdict.judge(outcome, [], limits) == "did not end within 0.2 s"


def test_memory_is_measured(tmp_path):
    program, verdict = importlib.import_module("program"), importlib.import_module("verdict")
    outcome, _ = run(tmp_path, f"exec '{sys.executable}' -c 'bytes(bytearray(300 << 20))'")
    limits = program.Limits(memory_bytes=256 << 20)
    assert "MiB of memory" in verdict.judge(outcome, [], limits)


def test_every_mutation_follows_from_its_seed():
    mutations = importlib.import_module("mutations")
    safetensors_file = importlib.import_module("safetensors_file")
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    samples = {
        mutations.BYTES: bytes(range(256)),
        mutations.TEXT: b'stage = "sft"\n[train]\nmax_steps = 2\n',
        mutations.JSON: b'{"a": [1, 2.5, {"b": "text"}], "c": null}',
        mutations.SAFETENSORS: safetensors_file.join(header, bytes(16)),
    }
    for mutate_all, content in samples.items():
        for mutate in mutate_all:
            found = {mutate(content, random.Random(seed)) for seed in range(20)}
            assert found == {mutate(content, random.Random(seed)) for seed in range(20)}
            assert found - {content}, mutate.__name__


def test_shards_hold_what_the_file_held(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors_file = importlib.import_module("safetensors_file")
    weights = Path(__file__).parents[2] / "fixtures/demo/sft-model/model.safetensors"
    safetensors_file.write_shards(weights, tmp_path)
    shards = [safetensors.load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    together = {name: values for shard in shards for name, values in shard.items()}
    whole = safetensors.load_file(weights)
    assert len(shards) == 2 and together.keys() == whole.keys()
    assert all((together[name] == whole[name]).all() for name in whole)


def test_leftovers_and_differences_are_found(tmp_path):
    folders = importlib.import_module("folders")
    for name in ("model.json", ".model.partial", ".lock"):
        (tmp_path / name).write_text("")
    assert list(folders.leftovers(tmp_path, folders.LASTING)) == [str(tmp_path / ".model.partial")]
    (tmp_path / "report.unfinished.jsonl").touch()
    assert str(tmp_path / "report.unfinished.jsonl") in folders.leftovers(tmp_path)
    rows = b'{"step": 1, "loss": 0.5, "step_secs": %d}\n'
    one, other = ({"metrics.jsonl": rows % secs} for secs in (1, 2))
    assert folders.difference(one, other, folders.of_run) is None
    assert folders.difference(one, other) == "metrics.jsonl differs"
    assert folders.difference(one, {}) == "only one of the two has metrics.jsonl"


def test_a_watch_sees_what_happens(tmp_path):
    watch = importlib.import_module("watch")
    with watch.Watch([tmp_path]) as watched:
        (tmp_path / ".a.partial").touch()
        os.rename(tmp_path / ".a.partial", tmp_path / "a")
        events = [(event.name, event.kind) for event in watched.wait(5.0)]
    assert events == [(".a.partial", "appear"), (".a.partial", "gone"), ("a", "appear")]


def test_a_campaign_replaces_the_lines_of_its_parts(tmp_path):
    reliability, table = importlib.import_module("reliability"), importlib.import_module("table")
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{reliability.BEGIN}\nold\n{reliability.END}\nafter\n")

    def write(seed, tries):
        tried = table.Table()
        for part, times in tries.items():
            tried.count(part, "runs", times)
        tried.skip(next(iter(tries)), "a full disk", "no right to mount")
        reliability.write(page, tried, reliability.Run("2026-11-30", "c0ffee", seed, 1.5, "2 cores"), list(tries))
        text = page.read_text()
        assert text.startswith(f"before\n{reliability.BEGIN}\n") and text.endswith("\nafter\n")
        return text.splitlines()

    lines = write("5eed", {"kills": 1200, "disk": 3})
    assert "old" not in lines and lines.count("| kills | runs | 1,200 | 0 |  |") == 1
    lines = write("feed", {"long": 7, "disk": 4})
    assert [line for line in lines if "c0ffee" in line] == [
        "| kills | 2026-11-30 | c0ffee | `5eed` | 2 | 0 | 2 cores |",
        "| long | 2026-11-30 | c0ffee | `feed` | 2 | 0 | 2 cores |",
        "| disk | 2026-11-30 | c0ffee | `feed` | 2 | 0 | 2 cores |",
    ]
    assert [line for line in lines if "runs" in line or "mount" in line] == [
        "| kills | runs | 1,200 | 0 |  |",
        "| kills | a full disk | skipped | – | no right to mount |",
        "| long | runs | 7 | 0 |  |",
        "| disk | runs | 4 | 0 |  |",
        "| long | a full disk | skipped | – | no right to mount |",
    ]


def measured(seed, leak_bytes_per_minute=0, step_bytes=0, seconds=7200):
    """Memory that a training run might have, each second: phases, noise that lasts, and now and then a peak."""
    rng = random.Random(seed)
    noise, values = 0.0, []
    for second in range(seconds):
        noise = 0.95 * noise + rng.gauss(0, 600_000)
        phase = rng.choices([0, 30_000_000, 90_000_000], weights=[5, 4, 1])[0]
        leak = leak_bytes_per_minute * second / 60 + step_bytes * (second // 2500)
        values.append(170_000_000 + phase + noise + leak)
    return values


def growth(values):
    """What the long run says of memory."""
    flat, long_run = importlib.import_module("flat"), importlib.import_module("long_run")
    blocks = flat.blocks(values)
    assert len(blocks) == flat.NUM_BLOCKS and sum(map(len, blocks)) == len(values) * 3 // 4
    own = [statistics.fmean(block) for block in blocks]
    return flat.grows(own, hours=1.5, negligible=long_run.NEGLIGIBLE_MEMORY)


def test_memory_that_only_moves_up_and_down_is_flat():
    assert [growth(measured(seed)) for seed in range(20)] == [None] * 20
    # Filling caches for a quarter of the time is no leak.
    warm = [value + min(second, 1700) * 50_000 for second, value in enumerate(measured(0))]
    assert growth(warm) is None


def test_a_leak_is_found():
    for seed in range(5):
        assert "an hour" in growth(measured(seed, leak_bytes_per_minute=100_000))
    # A few large steps say little of the next hour, but they are there.
    assert growth(measured(0, step_bytes=8_000_000)) is not None


def test_a_trend_has_limits_that_hold_it():
    flat = importlib.import_module("flat")
    rng = random.Random(1)
    inside = 0
    for _ in range(200):
        found = flat.trend([3.0 * at / 30 + rng.gauss(0, 1) for at in range(30)], hours=1.0)
        inside += found.low <= 3.0 <= found.high
    assert inside >= 194
    constant = flat.trend([5.0] * 30, hours=1.0)
    assert (constant.slope, constant.low, constant.high) == (0.0, 0.0, 0.0)


def test_open_files_must_not_grow():
    flat = importlib.import_module("flat")

    def says(more, seed=1, seconds=7200):
        # Eight are open, and up to three more during a save, which is seldom seen.
        rng = random.Random(seed)
        open_files = (8 + rng.choices([0, 1, 3], weights=[500, 50, 5])[0] + more(at) for at in range(seconds))
        return flat.count_grows(flat.blocks(list(open_files)))

    assert [says(lambda second: 0, seed, seconds) for seed in range(20) for seconds in (360, 7200)] == [None] * 40
    # What warms up is there from then on.
    assert says(lambda second: 2 * (second > 1000)) is None
    assert says(lambda second: second // 3600) == "from 8 to 9 that are there all the time"
    assert "of the last 10 blocks" in says(lambda second: second // 1000 if second % 10 == 0 else 0)


def test_a_process_is_measured(tmp_path):
    program, long_run = importlib.import_module("program"), importlib.import_module("long_run")
    script = "import time\nblock = b'x' * (64 << 20)\nfile = open('/dev/null')\ntime.sleep(60)\n"
    running = program.Running(
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL), tmp_path / "log"
    )
    for name in ("checkpoint", *long_run.LOGS):
        (tmp_path / name).write_text("12345")
    try:
        meter = long_run.Meter(running, tmp_path)
        until = time.monotonic() + 30
        while (sample := meter.sample()).num_files < 4 and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        running.process.kill()
        running.process.wait()
    assert sample.num_files == 4 and sample.num_threads == 1 and sample.num_mappings > 10
    assert sample.peak_bytes >= sample.anonymous_bytes > 64 << 20
    assert sample.disk_bytes == 5


def test_a_started_program_is_the_program(tmp_path):
    """A process that is forked where `main` begins has arguments, environment, folder and end of its own."""
    program, preload = importlib.import_module("program"), importlib.import_module("preload")
    started = importlib.import_module("started")
    library = preload.compile_library(HERE / "started.c", tmp_path)
    if isinstance(library, str):
        pytest.skip(library)
    source = tmp_path / "subject.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        "int main(int argc, char **argv) {\n"
        '  fprintf(stderr, "%d %s %s %s", argc, argv[argc - 1], getenv("WORD"), getcwd(NULL, 0));\n'
        "  if (argc == 4) abort();\n  if (argc == 5) for (;;) sleep(1);\n  return 1;\n}\n"
    )
    words = [os.environ.get("CC", "cc"), "-o", str(tmp_path / "subject"), str(source)]
    subprocess.run(words, check=True)
    subject = program.Program(tmp_path / "subject", library, {"WORD": "first"})
    quick = subject.with_starter(started.Starter(library, library))
    limits = program.Limits(seconds=0.3)
    for words in ([], ["abort"], ["hang", "hang"]):
        for word in ("first", "second"):
            programs = [each.with_environment(WORD=word) for each in (subject, quick)]
            slow, fast = (each.run(words, cwd=tmp_path, limits=limits) for each in programs)
            assert (fast.code, fast.stderr, fast.timed_out) == (slow.code, slow.stderr, slow.timed_out)
            assert word in fast.stderr and str(tmp_path) in fast.stderr
