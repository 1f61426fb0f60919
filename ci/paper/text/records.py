"""Makes rated records of unrated ones: several answers to each prompt, rated by the rules of `rate.py`.

    .venvs/raters/bin/python ci/paper/text/records.py RESPONSES.jsonl OUT [--num-train 40] [--num-eval 20] …

Reads lines {"instruction", "completions": [{"response"}, …]}. Writes records.jsonl, eval.jsonl and rest.jsonl in
UltraFeedback's schema, sft.jsonl (conversations with one answer each, of any author) and scale.json, the measures of
all answers in records.jsonl. No prompt is in two of the first four. Prompts and answers that are long are left out,
since the study trains on a CPU: `--max-prompt-chars`, `--max-response-chars`. The same input always gives the same
files.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from rate import MEASURES, Scale, measures, rate


def order(text: str) -> bytes:
    """A key that shuffles, the same way each time."""
    return hashlib.sha256(text.encode()).digest()


def candidates(
    source: Path, num_responses: int, max_prompt_chars: int, max_response_chars: int
) -> list[tuple[str, list[str]]]:
    """Prompts in shuffled order, each with its answers, shuffled too."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(source.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            prompt, responses = (
                row["instruction"],
                [completion["response"].strip() for completion in row["completions"]],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            sys.exit(f"error: {source}, line {number}: it is no object with `instruction` and `completions` ({error}).")
        fitting = {text for text in responses if len(text) <= max_response_chars and measures(text, ()) is not None}
        if len(prompt) <= max_prompt_chars and len(fitting) >= num_responses:
            found.setdefault(prompt, sorted(fitting, key=order)[:num_responses])
    return sorted(found.items(), key=lambda item: order(item[0]))


def record(prompt: str, responses: list[str], scale: Scale) -> dict:
    """A record in UltraFeedback's schema."""
    ratings = [rate(text, scale) for text in responses]
    return {
        "instruction": prompt,
        "completions": [
            {"response": text, "annotations": {name: {"Rating": str(rating)} for name, rating in rated.items()}}
            for text, rated in zip(responses, ratings, strict=True)
        ],
    }


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"wrote {len(rows)} lines to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-train", type=int, default=40)
    parser.add_argument("--num-eval", type=int, default=20)
    parser.add_argument("--num-rest", type=int, default=16)
    parser.add_argument("--num-sft", type=int, default=40)
    parser.add_argument("--dimensions", type=lambda text: text.split(","), default=["positivity", "simplicity", "brevity"])
    parser.add_argument("--max-prompt-chars", type=int, default=250)
    parser.add_argument("--max-response-chars", type=int, default=300)
    parser.add_argument("--num-responses", type=int, default=4)
    options = parser.parse_args()
    if unknown := set(options.dimensions) - set(MEASURES):
        parser.error(f"--dimensions: {min(unknown)} is none of {', '.join(MEASURES)}")
    prompts = candidates(options.source, options.num_responses, options.max_prompt_chars, options.max_response_chars)
    sizes = [options.num_train, options.num_eval, options.num_rest, options.num_sft]
    if len(prompts) < sum(sizes):
        sys.exit(
            f"error: {options.source} has {len(prompts)} prompts with {options.num_responses} answers that are short enough,"
            f" but {sum(sizes)} are asked for: ask for fewer, or allow longer ones."
        )
    parts = []
    for size in sizes:
        parts.append(prompts[:size])
        prompts = prompts[size:]
    train, held_out, rest, sft = parts
    texts = [measures(text, options.dimensions) for _, responses in train for text in responses]
    scale = {name: sorted(text[name] for text in texts) for name in options.dimensions}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.json").write_text(json.dumps(scale) + "\n", encoding="utf-8")
    for name, part in (("records", train), ("eval", held_out), ("rest", rest)):
        write(options.out / f"{name}.jsonl", [record(prompt, responses, scale) for prompt, responses in part])
    turns = lambda prompt, answer: [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]  # noqa: E731
    write(options.out / "sft.jsonl", [{"messages": turns(prompt, responses[0])} for prompt, responses in sft])


if __name__ == "__main__":
    main()
