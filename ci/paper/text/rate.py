"""Rates texts by rules, on the scale of a set of texts: a rater for `lambda-dpo evaluate` and `steer`.

    .venvs/raters/bin/python ci/paper/text/rate.py SCALE.json < answers.jsonl > scores.jsonl

Reads one JSON object {"prompt": …, "response": …} per line and writes one object of ratings by dimension per line.
`records.py` writes the scale.

    positivity    VADER's compound score of the text
    simplicity    textstat's Coleman–Liau index, a school grade: the lower, the simpler
    brevity       textstat's number of words: the fewer, the briefer
    variety       type-token ratio: different words among the text's words, in lower case

The dimensions are those of the scale.

A rating is 1 + 4 F, with F the share of the texts of the scale that are worse, those that are equal counting half: 1 is
the worst of them, 3 the median, 5 the best. A text without a word is rated 1 in everything.
"""

import json
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path

import textstat
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

ANALYZER = SentimentIntensityAnalyzer()


def type_token_ratio(text: str) -> float:
    """Share of different words, without punctuation around them."""
    words = [word.strip(".,;:!?\"'()[]*-").lower() for word in text.split()]
    words = [word for word in words if word]
    return len(set(words)) / len(words) if words else 0.0


MEASURES = {
    "positivity": lambda text: ANALYZER.polarity_scores(text)["compound"],
    "simplicity": lambda text: -textstat.coleman_liau_index(text),
    "brevity": lambda text: -textstat.lexicon_count(text),
    "variety": lambda text: type_token_ratio(text),
}

Scale = dict[str, list[float]]


def measures(text: str, names: Iterable[str]) -> dict[str, float] | None:
    """The measure of a text in each of the dimensions, larger being better; None without a word."""
    if not any(character.isalnum() for character in text):
        return None
    return {name: float(MEASURES[name](text)) for name in names}


def rating(value: float, scale: list[float]) -> float:
    """1 + 4 F: where a value stands among the sorted values of the scale."""
    share = (bisect_left(scale, value) + bisect_right(scale, value)) / (2 * len(scale))
    return round(1 + 4 * share, 2)


def rate(text: str, scale: Scale) -> dict[str, float]:
    """Rates a text in every dimension of the scale."""
    found = measures(text, scale)
    return {name: 1.0 if found is None else rating(found[name], scale[name]) for name in scale}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("error: give the scale that ci/paper/text/records.py wrote, scale.json.")
    scale = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for line in sys.stdin:
        print(json.dumps(rate(json.loads(line)["response"], scale)))


if __name__ == "__main__":
    main()
