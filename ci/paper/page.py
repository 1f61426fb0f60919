"""The page of a study, written from its results: tables, what they say, and what they do not."""

import math
import os
import textwrap
from pathlib import Path

import findings
from results import AXES, COSTS, Axis, Row, Table, rating_axis, read, score_axis
from study import Study

AXES_SAID = (
    (
        "*Win rate*: how often an answer scores higher than the start's answer to the same prompt, by the mean score"
        " over the dimensions; a tie is a half. *At equal length*: the rate that a logistic regression predicts for"
        " answers of equal length."
    ),
    "*Score*: the mean score of the answers over all dimensions. Answers are sampled at temperature 1.",
    (
        "*Reward accuracy*: how often the response with the highest reward is the one rated best under uniform λ, on"
        " held-out records."
    ),
    (
        "*KL, k1*: the divergence from the start per answer in nats, estimated from the policy's own answers. *KL,"
        " token*: the exact divergence per token, on the records' responses."
    ),
    (
        "*ρ*: Spearman's correlation of the records' sequence log-probs with their lengths, for sums and for means over"
        " tokens."
    ),
    "*Length*: the mean length of the answers in characters.",
)

LIMITS = """
These figures compare settings, not methods at their best: every variant has the same steps and learning rate, and β
was not tuned, while the paper tunes each method by itself. The λ-adapter, too, has the steps of one run, not of all
specialists together ([steering.md](steering.md) gives it those). A standard deviation over {num_seeds} seeds is
itself uncertain by about {percent:.0f} %, and the seeds share one start and one set of records and prompts, so that
other data could order the variants differently. "Clearly" means by more than two standard errors over seeds; among so
many comparisons, some are clear by chance. λ-DPO sees every response of a record and its ratings in all dimensions,
the pairwise baselines its best and its worst response: that is part of the method, but also more data. Whoever scores
the answers is also what rated the records.
"""


REAL = """
    ci/setup_python.sh raters
    .venvs/raters/bin/python ci/paper/text/records.py RESPONSES.jsonl OUT
    make paper MODEL=DIR RECORDS=OUT/records.jsonl SFT=OUT/sft.jsonl
"""


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, width=119, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False
    )


def markdown(rows: list[Row], axes: list[Axis]) -> str:
    """A table with a row per policy; axes without any figure are left out."""
    axes = [axis for axis in axes if any(row.values(axis) is not None for row in rows)]
    lines = ["| | " + " | ".join(axis.title for axis in axes) + " |", "|---" * (len(axes) + 1) + "|"]
    lines += ["| " + " | ".join([row.title, *(row.cell(axis) for axis in axes)]) + " |" for row in rows]
    return "\n".join(lines)


def pipeline(study: Study, table: Table) -> str:
    dimensions = study.config["data"]["dimensions"]
    policies = [*table.rows, *table.corners.values()]
    scores = [score_axis(name) for name in dimensions]
    parts = [f"## {table.pipeline.title}", wrapped(table.pipeline.about.strip())]
    parts.append(markdown([table.start, *table.rows], list(AXES)))
    if any(row.values(axis) is not None for row in policies for axis in scores):
        parts += ["Score of the answers by dimension:", markdown([table.start, *policies], scores)]
    parts.append("Expected rating of the held-out responses under the policy's listwise distribution:")
    parts.append(markdown(policies, [rating_axis(name) for name in dimensions]))
    parts.append("\n".join(wrapped(sentence, "- ") for sentence in findings.of_pipeline(study, table)))
    return "\n\n".join(part for part in parts if part)


def page(study: Study, source: Path) -> str:
    """Returns the page in Markdown."""
    tables = read(study)
    num_runs = len(tables) * len(study.variants) * len(study.seeds)
    num_steps = {evaluation["run"]["steps"] for table in tables for row in table.rows for evaluation in row.evaluations}
    first = tables[0].rows[0].evaluations[0]["settings"]
    link = os.path.relpath(source.resolve(), study.page.parent)
    opening = (
        f"`{study.command}` writes this page from the results of {num_runs} runs: {len(tables)} pipelines ×"
        f" {len(study.variants)} variants × {len(study.seeds)} seeds of data order, λ, adapter and sampling, configured"
        f" in [{link}]({link}). Each has {' or '.join(map(str, sorted(num_steps)))} steps; each is measured on"
        f" {first['num_records']} held-out records and by its answers to {first['num_prompts']} of their prompts."
        " Figures are means ± standard deviations over the seeds."
    )
    parts = [
        f"# {study.title}",
        wrapped(opening),
        study.about.strip(),
        "\n".join(wrapped(said, "- ") for said in AXES_SAID),
    ]
    parts += [pipeline(study, table) for table in tables]
    if both := findings.of_both(tables):
        parts += ["## The pipelines side by side", "\n".join(wrapped(sentence, "- ") for sentence in both)]
    parts += [
        "## What this does not say",
        wrapped(
            LIMITS.strip()
            .format(num_seeds=len(study.seeds), percent=100 / math.sqrt(2 * (len(study.seeds) - 1)))
            .replace("\n", " ")
        ),
    ]
    parts += [
        "## The same on a model of your own",
        wrapped(
            'Give the answers of several models to each of some hundred instructions, as lines `{"instruction": …,'
            ' "completions": [{"response": …}, …]}`. They are rated by VADER and textstat, and so are the answers of'
            " the trained models (`ci/paper/text/rate.py` says how; [paper/real-model.toml](paper/real-model.toml) is the"
            " study, to be copied for records and raters of your own):"
        ),
        REAL.strip("\n"),
    ]
    parts += [
        "## Cost",
        wrapped(
            "Time of the optimiser steps, tokens per second of the median step and peak memory of a run, on"
            f" {study.threads} thread{'' if study.threads == 1 else 's'} with {study.jobs}"
            f" run{'' if study.jobs == 1 else 's'} at a time. Unlike all figures above, these differ from one making of"
            " this page to the next."
        ),
    ]
    for table in tables:
        parts += [f"{table.pipeline.title}:", markdown(list(table.rows), list(COSTS))]
    return "\n\n".join(parts) + "\n"
