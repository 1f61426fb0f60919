"""The page of the comparison on a real chat model, written from its results."""

import itertools
import json
import math
import os
import textwrap
from pathlib import Path
from statistics import mean

import control_plot
import json_lines

LAMBDAS = ("0", "¼", "½", "¾", "1")
# How many prompts' answers are shown: the first ones of the file. They come before the held-out ones.
NUM_SHOWN = 2
PICTURES = {"score": "generated.svg", "expected_rating": "held-out.svg"}


def curve(report: dict, dimension: str, figure: str) -> list[float]:
    """A figure of a dimension at each value of its own λ."""
    return [height for _, height in control_plot.curve(report, dimension, figure)]


def reach(report: dict, dimension: str, figure: str = "score") -> float:
    """How far the dimension's own λ moves a figure."""
    values = curve(report, dimension, figure)
    return values[-1] - values[0]


def control(report: dict) -> float:
    """What a candidate is chosen by: the mean range of the scores over the dimensions."""
    return mean(reach(report, dimension) for dimension in report["dimensions"])


def specialist_reach(soup: dict, dimension: str, figure: str) -> float:
    """A specialist's figure in its dimension, minus the mean of the other specialists' there."""
    corners = {name: points[-1] for name, points in zip(soup["dimensions"], soup["curves"], strict=True)}
    values = {name: control_plot.value(soup["points"][corner], dimension, figure) for name, corner in corners.items()}
    return values[dimension] - mean(value for name, value in values.items() if name != dimension)


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, width=119, subsequent_indent=indent, break_on_hyphens=False)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def control_table(ours: dict, soup: dict, figure: str) -> str:
    """A figure over λ, and its ranges beside the specialists' and their soup's."""
    rows = []
    for name in ours["dimensions"]:
        values = curve(ours, name, figure)
        others = [specialist_reach(soup, name, figure), reach(soup, name, figure)]
        cells = [f"{value:.2f}" for value in values]
        rows.append([name, *cells, *(f"{value:+.2f}" for value in [values[-1] - values[0], *others])])
    head = ["λ of the dimension", *LAMBDAS, "range", "specialists'", "soup's"]
    return table(head, rows)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def rises(values: list[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))


def listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def findings(ours: dict, soup: dict) -> list[str]:
    """What the tables say, whether or not it is what one would wish for."""
    found = []
    dimensions = ours["dimensions"]
    for figure, (_, title) in control_plot.FIGURES.items():
        rising = [name for name in dimensions if rises(curve(ours, name, figure))]
        said = "in every dimension" if len(rising) == len(dimensions) else f"in {len(rising)} of {len(dimensions)}"
        missing = [name for name in dimensions if name not in rising]
        but = ""
        if missing:
            steps = [pair for name in missing for pair in itertools.pairwise(curve(ours, name, figure))]
            fall = max(before - after for before, after in steps)
            but = f", not in {listed(missing)}, where it falls by {fall:.2f} at most"
        found.append(f"{title}: rises with every step of the dimension's λ {said}{but}.")
        own, specialists, mixed = (
            [measure(name) for name in dimensions]
            for measure in (
                lambda name: reach(ours, name, figure),
                lambda name: specialist_reach(soup, name, figure),
                lambda name: reach(soup, name, figure),
            )
        )
        shares = [mine / theirs if theirs > 0 else math.nan for mine, theirs in zip(own, specialists, strict=True)]
        known = [(share, name) for share, name in zip(shares, dimensions, strict=True) if not math.isnan(share)]
        if mean(specialists) > 0:
            least = f"; the smallest share is that of {min(known)[1]}, {percent(min(known)[0])}" if known else ""
            found.append(
                f"Its range is {mean(own):.2f} on average, {percent(mean(own) / mean(specialists))} of the specialists'"
                f" ({mean(specialists):.2f}){least}. The soup of the specialists reaches {mean(mixed):.2f}."
            )
    return found


def perplexity(path: Path) -> tuple[float, float]:
    """Perplexity over all tokens, and its standard error over conversations (of the log, times the perplexity)."""
    rows = json_lines.read(path)
    sums, tokens = [-sum(row["log_probs"]) for row in rows], [sum(row["num_tokens"]) for row in rows]
    rate = sum(sums) / sum(tokens)
    residuals = [nats - rate * number for nats, number in zip(sums, tokens, strict=True)]
    count = len(rows)
    stderr = math.sqrt(count / (count - 1) * sum(residual**2 for residual in residuals)) / sum(tokens)
    return math.exp(rate), math.exp(rate) * stderr


def share_of_unfinished(path: Path) -> tuple[float, float]:
    """Share of the held-out answers that have as many tokens as they may have, and its standard error."""
    rows = json_lines.read(path)[NUM_SHOWN:]
    share = mean(row["finish_reason"] == "length" for row in rows)
    return share, math.sqrt(share * (1 - share) / len(rows))


def mean_words(path: Path) -> float:
    return mean(len(row["response"].split()) for row in json_lines.read(path)[NUM_SHOWN:])


def quality(study) -> str:
    """What λ costs: perplexity on other conversations, and answers that do not end."""
    rows = []
    for name in ("base", "uniform", *study.dimensions):
        answers = study.out / "answers" / f"{name}.jsonl"
        (ppl, ppl_error) = perplexity(study.out / "perplexity" / f"{name}.jsonl")
        (share, share_error) = share_of_unfinished(answers)
        title = {"base": "the model as it was", "uniform": "uniform λ"}.get(name, f"{name} = 1")
        cells = [f"{ppl:.2f} ± {ppl_error:.2f}", f"{share:.2f} ± {share_error:.2f}", f"{mean_words(answers):.0f}"]
        rows.append([title, *cells])
    return table(["", "perplexity", "answers that did not end", "mean words"], rows)


def benchmarks(study) -> str:
    """Scores of the benchmarks, of the model as it was and under uniform λ."""
    results = {
        name: json.loads((study.out / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))["tasks"]
        for name in ("base", "uniform")
    }
    rows = []
    for task, base in results["base"].items():
        cells = [f"{found['value']:.3f} ± {found['stderr']:.3f}" for found in (base, results["uniform"][task])]
        rows.append([task, *cells])
    return table(["", "the model as it was", "uniform λ"], rows)


def shown(study) -> str:
    """Answers to the first prompts at each λ."""
    parts = []
    answers = {
        name: json_lines.read(study.out / "answers" / f"{name}.jsonl")
        for name in ("base", "uniform", *study.dimensions)
    }
    for index in range(NUM_SHOWN):
        rows = {name: found[index] for name, found in answers.items()}
        parts.append(wrapped(f"*{rows['base']['prompt'].strip()}*"))
        for name, row in rows.items():
            title = {"base": "the model as it was", "uniform": "uniform λ"}.get(name, f"{name} = 1")
            text = " ".join(row["response"].split())
            parts.append(wrapped(f"**{title}**: {text}"))
    return "\n\n".join(parts)


def reports(study) -> tuple[dict, dict, dict]:
    """The reports of the λ-adapter, the soup and the unconditioned training."""
    return study.report("lambda-adapter"), study.report("soup"), study.report("unconditioned")


def draw(study) -> None:
    """Draws the figures over λ into the folder beside the page that is called as it is."""
    folder = study.page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for figure, name in PICTURES.items():
        (folder / name).write_text(control_plot.picture(*reports(study), figure), encoding="utf-8")


def page(study, source: Path) -> str:
    """Returns the page in Markdown."""
    ours, soup, unconditioned = reports(study)
    link = os.path.relpath(source.resolve(), study.page.parent)
    chosen, candidates = study.chosen(), {name: control(study.report(f"choose-{name}")) for name in study.candidates}
    sizes = {name: len(json_lines.read(study.data(f"{name}.jsonl"))) for name in ("records", "rest", "eval")}
    generation = ours["generation"]
    parts = [
        f"# {study.title}",
        wrapped(f"`make steer-real` writes this page; [{os.path.basename(link)}]({link}) configures it."),
        study.about.strip(),
        wrapped(
            f"Trained on {sizes['records']} records; settings chosen on {sizes['rest']}; all that follows is measured on"
            f" {sizes['eval']} others, and on {generation['num_samples'] * generation['num_prompts']} answers to"
            f" {generation['num_prompts']} of their prompts (at most {generation['max_new_tokens']} tokens, temperature"
            f" {generation['temperature']:g}, top-p {generation['top_p']:g}). Candidates, by their mean range of scores"
            " on the records for choosing: "
            + "; ".join(f"{name} {value:+.2f}" for name, value in candidates.items())
            + f". Reported is {chosen}."
        ),
        "## Control",
    ]
    for figure, (_, title) in control_plot.FIGURES.items():
        at = f"{study.page.stem}/{PICTURES[figure]}"
        parts += [f"![{title} over λ, one panel per dimension]({at})"]
        parts += [f"{title}, with the others sharing the rest of λ:", control_table(ours, soup, figure)]
    levels = [f"{name} {curve(unconditioned, name, 'score')[0]:.2f}" for name in ours["dimensions"]]
    parts.append(wrapped("Unconditioned training, which has no λ to follow, scores " + ", ".join(levels) + "."))
    parts.append("\n".join(wrapped(f"- {sentence}", "  ") for sentence in findings(ours, soup)))
    parts += ["## What λ costs", quality(study)]
    if study.benchmarks is not None:
        parts.append(benchmarks(study))
    shown_file = f"[{study.shown.name}]({os.path.relpath(study.shown, study.page.parent)})"
    parts += [
        "## Answers",
        wrapped(f"To the first {NUM_SHOWN} prompts of {shown_file}, with the same random numbers:"),
        shown(study),
    ]
    return "\n\n".join(parts) + "\n"
