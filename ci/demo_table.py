"""Prints what λ-DPO changed on the demo's held-out prompts, from the first and the last evaluation in metrics.jsonl.

    python3 ci/demo_table.py runs/demo [--min-accuracy 0.8]

With --min-accuracy, fails if the final accuracy under uniform λ is lower, or if the held-out loss has not fallen.
"""

import argparse
import json
import sys
from pathlib import Path


def read_evaluations(path: Path) -> list[dict]:
    """Returns the lines that hold an evaluation."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if "eval_loss" in row]


def dimensions_of(row: dict) -> list[str]:
    """Returns the names of the dimensions, in the run's order."""
    prefix = "eval_loss/"
    return [key.removeprefix(prefix) for key in row if key.startswith(prefix)]


def table(first: dict, last: dict) -> str:
    """Returns a table of loss and reward accuracy before and after, overall and per dimension."""
    names = [("uniform λ", ""), *((name, f"/{name}") for name in dimensions_of(last))]
    width = max(len(name) for name, _ in names)
    lines = [
        f"{'':{width}}   held-out loss       reward accuracy",
        f"{'':{width}}   before    after     before    after",
    ]
    for name, suffix in names:
        cells = [row[f"{key}{suffix}"] for key in ("eval_loss", "eval_rewards/accuracies") for row in (first, last)]
        loss_before, loss_after, accuracy_before, accuracy_after = cells
        lines.append(
            f"{name:{width}}   {loss_before:6.4f}    {loss_after:6.4f}    {accuracy_before:6.3f}    {accuracy_after:6.3f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints what λ-DPO changed on the demo's held-out prompts.")
    parser.add_argument("run", type=Path, help="folder with the runs sft and lambda_dpo")
    parser.add_argument("--min-accuracy", type=float, help="fail below this reward accuracy under uniform λ")
    arguments = parser.parse_args()
    evaluations = read_evaluations(arguments.run / "lambda_dpo" / "metrics.jsonl")
    if len(evaluations) < 2:
        print(f"{arguments.run}/lambda_dpo/metrics.jsonl needs an evaluation before and one after training.", file=sys.stderr)
        return 1
    first, last = evaluations[0], evaluations[-1]
    print(f"\n{table(first, last)}\n")
    print(
        "Uniform λ prefers the response with the best average rating. The dimensions conflict, so no response is best\n"
        "in all of them, and a dimension that conflicts with most others (here helpfulness, which rewards length)\n"
        "need not improve.\n"
    )
    for stage, what in (("sft", "loss"), ("lambda_dpo", "loss and held-out loss")):
        print(f"{what}, stage {stage}: {arguments.run / stage / 'loss.svg'}")
    accuracy = last["eval_rewards/accuracies"]
    if arguments.min_accuracy is not None and (
        accuracy < arguments.min_accuracy or last["eval_loss"] >= first["eval_loss"]
    ):
        print(
            f"The demo fell short: accuracy {accuracy:.3f} (required: at least {arguments.min_accuracy}), "
            f"held-out loss {first['eval_loss']:.4f} -> {last['eval_loss']:.4f}.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
