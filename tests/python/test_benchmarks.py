"""The sides of the benchmarks compute the same: the program's step and Appendix B in PyTorch, at a tiny shape."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import data_path  # noqa: E402
import log_probs  # noqa: E402
import report  # noqa: E402
import sides  # noqa: E402
import whole_step  # noqa: E402
from scenario import Scenario  # noqa: E402

TINY = Scenario(
    "tiny",
    vocab_size=96,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=48,
    prompt_length=9,
    response_lengths=(7, 4, 10, 1),
    num_prompts=2,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module", autouse=True)
def program():
    subprocess.run(["cargo", "build", "--release", "--quiet", "--workspace"], cwd=ROOT, check=True)


def run_steps(scenario, folder, names, num_rounds):
    opened = whole_step.open_sides(names, scenario.write(folder))
    timings = sides.alternate(opened, num_rounds, num_warm=0)
    whole_step.close(opened)
    return timings


@pytest.mark.parametrize("lora_rank", [0, 3])
def test_the_programs_steps_are_those_of_appendix_b(tmp_path, lora_rank):
    """Compares losses and gradient norms over several updates, which includes AdamW and clipping."""
    scenario = TINY.with_(lora_rank=lora_rank)
    timings = run_steps(scenario, tmp_path, ["ours", "a", "b"], 4)
    whole_step.check_agreement(timings, ["a", "b"])
    losses = [answer["loss"] for answer in timings["ours"].answers]
    assert losses[-1] < losses[0]


def test_the_floor_is_transformers_decoder(tmp_path):
    timings = run_steps(TINY, tmp_path, ["c", "c-hf"], 3)
    for ours, theirs in zip(timings["c"].answers, timings["c-hf"].answers):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-5)
        assert math.isclose(ours["grad_norm"], theirs["grad_norm"], rel_tol=1e-4)


@pytest.mark.parametrize("loss", [1.0002, math.nan])
def test_steps_that_differ_are_not_timed(loss):
    timings = {"ours": sides.Timings(), "b": sides.Timings()}
    timings["ours"].answers.append({"loss": loss, "grad_norm": 2.0})
    timings["b"].answers.append({"loss": 1.0, "grad_norm": 2.0})
    with pytest.raises(SystemExit, match="Step 0: loss is"):
        whole_step.check_agreement(timings, ["b"])


def test_log_probs_and_records_agree(tmp_path):
    """The comparisons check their sides against each other and end the process if they differ."""
    figure = log_probs.compare(tmp_path, vocab_size=211, hidden_size=16, num_targets=33, num_rounds=1)
    assert figure["frozen"]["seconds"]["ours"]["num_runs"] == 1
    figure = data_path.compare(tmp_path, num_records=20, num_rounds=1)
    assert figure["expanded"]["ratio"]["median"] > 0


def test_plots_name_their_lines(tmp_path):
    figure = {"points": {"ours": [[1280, 0.5], [2560, 1.0]], "c": [[1280, 0.4], [2560, 0.9]]}}
    report.plot(figure, "tokens of a step", tmp_path / "plots" / "tokens.svg")
    svg = (tmp_path / "plots" / "tokens.svg").read_text()
    assert all(text in svg for text in ["step time over tokens of a step", "seconds per step", "ours"])
