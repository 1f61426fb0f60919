"""The torture campaign sees what it is there to see: panics, signals, hangs, unclear messages, leftovers."""

import importlib
import os
import random
import subprocess
import sys
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


def test_the_page_is_rewritten_between_its_markers(tmp_path):
    reliability, table = importlib.import_module("reliability"), importlib.import_module("table")
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{reliability.BEGIN}\nold\n{reliability.END}\nafter\n")
    tried = table.Table()
    tried.count("kills", "training runs", 1200)
    tried.skip("disk", "a full disk", "no right to mount")
    reliability.write(page, tried, "c0ffee", "5eed", 90.0)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "commit c0ffee" in text and "seed `5eed`" in text
    assert "| kills | training runs | 1,200 | 0 |  |" in text
    assert "| disk | a full disk | skipped | – | no right to mount |" in text


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
