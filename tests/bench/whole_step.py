"""Compares whole training steps: figures 1 to 3, 5 and 6."""

import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

from scenario import Scenario
from sides import Side, Timings, alternate, python_side, ratio, rust_side

# Relative, in float32.
TOLERANCES = {"loss": 1e-5, "grad_norm": 1e-4}


def open_sides(names: list[str], folder: Path) -> list[Side]:
    """Opens sides: `ours`, an oracle of oracles.py, `c-huge` ((c) with huge pages), `matmul`."""
    sides = []
    for name in names:
        if name == "ours":
            sides.append(rust_side(name, "step", folder))
        elif name == "matmul":
            sides.append(python_side(name, "matmul.py", folder))
        elif name == "c-huge":
            sides.append(python_side(name, "oracles.py", "c", folder, THP_MEM_ALLOC_ENABLE="1"))
        else:
            sides.append(python_side(name, "oracles.py", name, folder))
    return sides


def check_agreement(
    timings: dict[str, Timings], others: list[str], tolerances: Mapping[str, float] = TOLERANCES
) -> dict[str, float]:
    """Checks that the sides compute the same in each step; returns the largest relative differences."""
    worst = dict.fromkeys(tolerances, 0.0)
    for other in others:
        for step, (ours, theirs) in enumerate(zip(timings["ours"].answers, timings[other].answers)):
            for key, tolerance in tolerances.items():
                difference = abs(ours[key] - theirs[key]) / abs(theirs[key])
                worst[key] = max(worst[key], difference)
                # Not `>`, which NaN would pass.
                if not difference <= tolerance:
                    raise SystemExit(
                        f"Step {step}: {key} is {ours[key]} here and {theirs[key]} in ({other}), which differ by more "
                        f"than {tolerance} relative: their times cannot be compared."
                    )
    return worst


def extra_memory(sides: list[Side], state_bytes: dict[str, int]) -> dict[str, int]:
    """Peak bytes of a step beyond weights and optimiser state; the sides cannot be used afterwards."""
    extra = {}
    for side in sides:
        peak = max(side.peak_bytes() for _ in range(2))
        extra[side.name] = peak - side.empty_bytes() - state_bytes[side.name]
    return extra


def close(sides: list[Side]) -> None:
    for side in sides:
        side.close()


def compare_steps(scenario: Scenario, scratch: Path, oracles: list[str], num_rounds: int) -> dict:
    """Compares our step with oracles: times, ratios, agreement with the listwise ones, memory."""
    folder = scenario.write(scratch)
    sides = open_sides(["ours", *oracles], folder)
    timings = alternate(sides, num_rounds)
    listwise = [name for name in oracles if name in ("a", "b")]
    result = {
        "num_unique_tokens": scenario.num_unique_tokens,
        "num_targets": scenario.num_targets,
        "agreement": check_agreement(timings, listwise),
        "seconds": {name: timing.summary() for name, timing in timings.items()},
        "ratios": {name: ratio(timings[name], timings["ours"]) for name in oracles},
    }
    ours = sides[0]
    ours.ask("breakdown")
    result["breakdown"] = median_of([ours.ask("breakdown") for _ in range(num_rounds)])
    result["reference_seconds"] = statistics.median(ours.ask("reference")["seconds"] for _ in range(num_rounds))
    if "matmul" in timings:
        result["shares"] = shares(scenario, timings)
    measured = [side for side in sides if side.name not in ("matmul", "c-huge")]
    extra = extra_memory(measured, {side.name: scenario.state_bytes(side.name) for side in measured})
    result["extra_bytes"] = extra
    result["memory_ratios"] = {name: extra[name] / extra["ours"] for name in listwise}
    close(sides)
    return result


def median_of(answers: list[dict]) -> dict:
    keys = [key for key in answers[0] if key != "cpu_seconds"]
    return {key: statistics.median(answer[key] for answer in answers) for key in keys}


def shares(scenario: Scenario, timings: dict[str, Timings]) -> dict:
    """Model FLOP/s of the steps as shares of the rate of plain products of the model's matrices."""
    rate = timings["matmul"].answers[0]["flops"] / timings["matmul"].median
    pairs = {"ours": scenario.tree_pairs, "c": scenario.chain_pairs}
    result = {"matmul_flops_per_second": rate}
    for name in (name for name in pairs if name in timings):
        count = scenario.step_flops(pairs[name]())
        result[name] = {"flops": count, "share": count / timings[name].median / rate}
    return result


def sweep(scenarios: list[tuple[int, Scenario]], scratch: Path, num_rounds: int) -> dict:
    """Step times of ours and (c) over a range of scenarios; each entry is (position on the x axis, scenario)."""
    points = {"ours": [], "c": []}
    for at, scenario in scenarios:
        folder = scenario.write(scratch)
        sides = open_sides(list(points), folder)
        timings = alternate(sides, num_rounds)
        close(sides)
        shutil.rmtree(folder)
        for name, timing in timings.items():
            points[name].append([at, timing.median])
    return {"points": points, "r_squared": {name: r_squared(of_side) for name, of_side in points.items()}}


def r_squared(points: list[list[float]]) -> float:
    """R² of the least-squares line through the points."""
    xs, ys = zip(*points)
    return statistics.correlation(xs, ys) ** 2
