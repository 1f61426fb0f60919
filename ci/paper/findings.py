"""What the figures of a study say, in sentences that are computed from them."""

from statistics import mean

from results import AXES, Axis, Row, Table, difference, score_axis
from study import Study

BY_KEY = {axis.key: axis for axis in AXES}
NAMES = {
    "win_rate": "win rate",
    "length_controlled": "win rate at equal length",
    "score": "mean score",
    "accuracy": "reward accuracy",
    "k1": "divergence from the start (k1)",
    "kl_tokens": "divergence per token",
}


def number(value: float, axis: Axis) -> str:
    return f"{value:.{max(axis.digits, 1)}f}"


def listed(titles: list[str]) -> str:
    return titles[0] if len(titles) == 1 else ", ".join(titles[:-1]) + " and " + titles[-1]


def average(row: Row, axis: Axis) -> float | None:
    values = row.values(axis)
    return None if values is None else mean(values)


def ranked(rows: list[Row], axis: Axis) -> list[Row]:
    """The rows that have a figure, from the best to the worst."""
    present = [row for row in rows if row.values(axis) is not None]
    return sorted(present, key=lambda row: average(row, axis), reverse=axis.best == "high")


def against_dpo(table: Table) -> list[str]:
    """How the λ-DPO variants that see all dimensions compare with DPO."""
    dpo, found = table.row("dpo"), []
    ours = table.of_kind("lambda", "adapter")
    if dpo is None or not ours:
        return found
    for key in ("win_rate", "accuracy", "k1"):
        axis, better, worse, equal = BY_KEY[key], [], [], []
        for row in ours:
            gap = difference(row, dpo, axis)
            if gap is None:
                continue
            is_better = (gap.mean > 0) == (axis.best == "high")
            (equal if not gap.is_clear else better if is_better else worse).append(
                f"{row.title} ({gap.mean:+.{max(axis.digits, 1)}f}, standard error {number(gap.stderr, axis)})"
            )
        parts = []
        if better:
            parts.append(f"clearly better than DPO: {listed(better)}")
        if worse:
            parts.append(f"clearly worse: {listed(worse)}")
        if equal:
            parts.append(f"not clearly different: {listed(equal)}")
        if parts:
            found.append(f"By {NAMES[key]}, {'; '.join(parts)}.")
    return found


def single_dimensions_against_dpo(table: Table) -> list[str]:
    """The paper's second ablation: λ-DPO for one dimension at a time beside DPO."""
    dpo, axis = table.row("dpo"), BY_KEY["win_rate"]
    gaps = [] if dpo is None else [(row, difference(row, dpo, axis)) for row in table.of_kind("unimodal")]
    gaps = [(row, gap) for row, gap in gaps if gap is not None]
    if not gaps:
        return []
    above = sum(gap.is_clear and gap.mean > 0 for _, gap in gaps)
    below = sum(gap.is_clear and gap.mean < 0 for _, gap in gaps)
    return [
        f"Of the {len(gaps)} unimodal variants, which like DPO have a single objective, {above} have a clearly higher"
        f" win rate than DPO and {below} a clearly lower one."
    ]


def where_lambda_dpo_does_not_win(table: Table) -> list[str]:
    """The axes on which a baseline is the best of all variants, or as good as the best."""
    found = []
    for axis in (axis for axis in AXES if axis.best is not None):
        order = ranked(list(table.rows), axis)
        if not order:
            continue
        best = order[0]
        if best.kind == "baseline":
            ours = next((row for row in order if row.kind != "baseline"), None)
            if ours is None:
                continue
            gap = difference(best, ours, axis)
            how = "clearly" if gap.is_clear else "though not clearly"
            found.append(
                f"λ-DPO does not win by {NAMES[axis.key]}: {best.title} has {number(average(best, axis), axis)}, {how}"
                f" better than the best λ-DPO variant, {ours.title}, with {number(average(ours, axis), axis)}."
            )
        else:
            rival = next((row for row in order if row.kind == "baseline"), None)
            if rival is None:
                continue
            gap = difference(best, rival, axis)
            how = "clearly ahead of" if gap.is_clear else "but not clearly ahead of"
            found.append(
                f"The {'highest' if axis.best == 'high' else 'smallest'} {NAMES[axis.key]} is that of {best.title}"
                f" ({number(average(best, axis), axis)}), {how} the best baseline, {rival.title}"
                f" ({number(average(rival, axis), axis)})."
            )
    return found


def schedules(table: Table) -> list[str]:
    """Whether the schedules of λ differ from each other."""
    rows, found = table.of_kind("lambda"), []
    for key in ("win_rate", "accuracy"):
        axis = BY_KEY[key]
        order = ranked(rows, axis)
        if len(order) < 2:
            continue
        gap = difference(order[0], order[-1], axis)
        verdict = (
            f"{order[0].title} is clearly above {order[-1].title}"
            if gap.is_clear
            else "no schedule is clearly better than another"
        )
        found.append(
            f"Among the schedules of λ ({listed([row.title.removeprefix('λ-DPO, ') for row in rows])}), the"
            f" {NAMES[key]} ranges over {number(gap.mean, axis)} (standard error {number(gap.stderr, axis)}):"
            f" {verdict}."
        )
    return found


def specialists(study: Study, table: Table) -> list[str]:
    """What training for a single dimension gains and costs, and whether a λ-adapter at its corner does the same."""
    uniform, found = table.row("uniform"), []
    for variant in (variant for variant in study.variants if variant.dimension is not None):
        axis, row = score_axis(variant.dimension), table.row(variant.name)
        if row.values(axis) is None or uniform is None or uniform.values(axis) is None:
            continue
        gap = difference(row, uniform, axis)
        others = [score_axis(name) for name in study.config["data"]["dimensions"] if name != variant.dimension]
        cost = mean(average(row, other) - average(uniform, other) for other in others if row.values(other) is not None)
        sentence = (
            f"Trained for {variant.dimension} alone, answers score {gap.mean:+.2f} in it beside uniform λ"
            f"{'' if gap.is_clear else ' (not clearly)'}, and {cost:+.2f} on average in the others"
        )
        corner = table.corners.get(variant.dimension)
        if corner is not None and (rest := difference(corner, row, axis)) is not None:
            sentence += (
                f"; the λ-adapter at this corner scores {average(corner, axis):.2f},"
                f" {f'clearly {rest.mean:+.2f}' if rest.is_clear else f'not clearly different ({rest.mean:+.2f})'}"
                " beside the specialist"
            )
        found.append(sentence + ".")
    return found


def of_pipeline(study: Study, table: Table) -> list[str]:
    """All sentences about one pipeline."""
    return [
        *against_dpo(table),
        *single_dimensions_against_dpo(table),
        *where_lambda_dpo_does_not_win(table),
        *schedules(table),
        *specialists(study, table),
    ]


def of_both(tables: list[Table]) -> list[str]:
    """How the pipelines compare; their win rates do not, since each has its own start as the opponent."""
    found, axis = [], BY_KEY["score"]
    for first, second in zip(tables, tables[1:], strict=False):
        pairs = [(row, second.row(row.name)) for row in first.rows]
        gaps = [(row, difference(other, row, axis)) for row, other in pairs if other is not None]
        gaps = [(row, gap) for row, gap in gaps if gap is not None]
        start = difference(second.start, first.start, axis)
        if not gaps or start is None:
            continue
        higher = [row.title for row, gap in gaps if gap.is_clear and gap.mean > 0]
        lower = [row.title for row, gap in gaps if gap.is_clear and gap.mean < 0]
        sentence = (
            f"{second.pipeline.title} starts {start.mean:+.2f} points of mean score from {first.pipeline.title}; after"
            f" preference training the difference is {mean(gap.mean for _, gap in gaps):+.2f} on average over the"
            f" variants, clearly positive for {len(higher)} of {len(gaps)} variants"
        )
        found.append(
            sentence + (f" and clearly negative for {listed(lower)}." if lower else " and clearly negative for none.")
        )
    return found
