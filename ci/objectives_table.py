"""Writes the table of the objectives on the demo's island from the reports of `ci/objectives_demo.sh`.

    python3 ci/objectives_table.py runs/objectives docs/objectives.md
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

ROWS = (
    ("start", "the SFT model", ""),
    ("listwise", "`listwise`", "0.1"),
    ("plackett_luce", "`plackett_luce`", "0.1"),
    ("sigmoid", "`sigmoid`", "0.1"),
    ("sigmoid_sft", "`sigmoid`, `sft_weight` 1", "0.1"),
    ("hinge", "`hinge`", "0.1"),
    ("ipo", "`ipo`", "0.1"),
    ("simpo", "`simpo`, `simpo_gamma` 0.5", "2.5"),
    ("orpo", "`orpo`", "0.1"),
)
SEEDS = (1, 2, 3)

TEXT = """# Objectives on the demo's island

`make objectives-demo` writes this page. It trains a LoRA of the demo's SFT model ([fixtures/demo](../fixtures/demo/README.md),
0.4 million parameters) with every objective, for the same {num_steps} steps at the same learning rate, and measures all of
them alike on {num_records} held-out records. Uniform λ: `listwise` and `plackett_luce` see all responses of a record and its
four dimensions, λ = 1/4 each; the objectives of stage `dpo` see its best and its worst response by mean rating.

- *Reward accuracy*: how often the response with the highest s − s^ref (reduced as the objective does) is the one with the
  highest target under uniform λ. With four responses, chance is about a quarter.
- *Score*: the mean of the four ratings, by rule, of one answer to each held-out prompt, sampled at temperature 1.
- *Tokens*: the mean length of these answers, which are cut at 96: near that, most of them no longer end.

Mean and standard deviation over {num_seeds} seeds of data order, initial adapter and sampling.

| objective | β | reward accuracy | score | tokens |
|---|---|---|---|---|
{rows}

This is no ranking of objectives: the model is tiny, the answers are short, β and learning rate are not tuned, and pairs
carry less of a record than lists do. It shows that each of them learns, and what a table of your own would need.
"""


def uniform(report: dict) -> dict:
    """Returns the point of the grid at which all dimensions weigh the same."""
    share = 1 / len(report["dimensions"])
    return next(point for point in report["points"] if all(abs(weight - share) < 1e-9 for weight in point["lambda"]))


def cell(values: list[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def main() -> None:
    runs, page = Path(sys.argv[1]), Path(sys.argv[2])
    rows = []
    for name, title, beta in ROWS:
        folders = [runs / f"{name}-{seed}" for seed in SEEDS]
        reports = [json.loads((folder / "report" / "steer.json").read_text()) for folder in folders]
        points = [uniform(report) for report in reports]
        dimensions = reports[0]["dimensions"]
        # The untrained adapter has equal rewards everywhere.
        accuracies = [point["held_out"]["eval_rewards/accuracies"] for point in points]
        scores = [mean(point["generated"][f"score/{dimension}"] for dimension in dimensions) for point in points]
        tokens = [point["generated"]["num_tokens"] for point in points]
        rows.append(f"| {title} | {beta} | {cell(accuracies, 3)} | {cell(scores, 2)} | {cell(tokens, 1)} |")
    metrics = (runs / "listwise-1" / "metrics.jsonl").read_text().splitlines()
    page.write_text(
        TEXT.format(
            num_steps=json.loads(metrics[-1])["step"],
            num_records=reports[0]["num_records"],
            num_seeds=len(SEEDS),
            rows="\n".join(rows),
        )
    )
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
