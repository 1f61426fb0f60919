"""Models, records, runs and exports to work on, made by the program itself from the fixtures, so small that reading
them is quick."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors_file
from program import ROOT, Limits, Program

DEMO = ROOT / "fixtures/demo"
STORIES = ROOT.parent / "shared/data/stories260k"
DIMENSIONS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]

# Making it may take long on a busy machine.
PATIENCE = Limits(cpu_seconds=60.0, memory_bytes=8 << 30, seconds=300.0)


def lines(name: str, count: int, start: int = 0) -> str:
    """Lines of one of the demo's files."""
    with (DEMO / name).open(encoding="utf-8") as file:
        chosen = [line for number, line in enumerate(file) if start <= number < start + count]
    return "".join(chosen)


def write_tokenizer(folder: Path) -> None:
    """Copies the demo's tokenizer into a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / "model" / name, folder / name)


def write_config(folder: Path, hidden_size: int, num_layers: int) -> None:
    """Writes the demo's config.json, in another size."""
    config = json.loads((DEMO / "model/config.json").read_text())
    config |= {"hidden_size": hidden_size, "intermediate_size": 2 * hidden_size, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "num_hidden_layers": num_layers}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def run_config(stage: str, *, model: str, records: str, extra: str = "", cutoff_len: int = 128) -> str:
    """A run config, with paths relative to its folder."""
    form = "chat" if stage == "sft" else "ultrafeedback"
    return (
        f'stage = "{stage}"\noutput_dir = "run"\n\n[model]\npath = "{model}"\ndevice = "cpu"\n\n'
        f'[data]\nrecords = ["{records}"]\nformat = "{form}"\ncutoff_len = {cutoff_len}\n{extra}'
    )


def adapter_keys(kind: str, rank: int, dropout: float = 0.0) -> str:
    """The section of a LoRA or λ-adapter in a run config."""
    text = f'\n[adapter]\nkind = "{kind}"\nrank = {rank}\ndropout = {dropout}\n'
    return text + (f"rank_per_dimension = {rank}\n" if kind == "lambda_lora" else "")


@dataclass(frozen=True)
class Material:
    """Where everything is; the folder is only read after it is made."""

    folder: Path

    @property
    def tiny(self) -> Path:
        """A model of one layer with a hidden size of 16."""
        return self.folder / "tiny"

    @property
    def wide(self) -> Path:
        """A model of five layers with a hidden size of 64: two threads share its products."""
        return self.folder / "wide"

    @property
    def sharded(self) -> Path:
        """The tiny model in two shards with an index."""
        return self.folder / "sharded"

    @property
    def run(self) -> Path:
        """The output folder of a finished λ-DPO run of the tiny model, with `checkpoint-1`."""
        return self.folder / "full/run"

    @property
    def config(self) -> Path:
        """The config of that run."""
        return self.folder / "full/run.toml"

    @property
    def cache(self) -> Path:
        """The cache that it filled."""
        return self.folder / "full/cache"

    @property
    def lora(self) -> Path:
        """A LoRA of the tiny model."""
        return self.folder / "lora/run/adapter"

    @property
    def lambda_adapter(self) -> Path:
        """A λ-adapter of the tiny model."""
        return self.folder / "lambda_lora/run/adapter"

    def records(self, name: str) -> Path:
        """A file of records or prompts."""
        return self.folder / "records" / name

    @property
    def onnx(self) -> Path:
        """The tiny model as an ONNX graph."""
        return self.folder / "onnx"

    @property
    def torchscript(self) -> Path:
        """The tiny model as a TorchScript module."""
        return self.folder / "torchscript"

    @property
    def steer(self) -> Path:
        """What `steer` wrote of the λ-adapter."""
        return self.folder / "steer"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` wrote of the LoRA, with answers."""
        return self.folder / "evaluation"


def make(program: Program, folder: Path) -> Material:
    """Makes all of it in an empty folder; takes some 15 seconds of a core."""
    material = Material(folder)
    folder.mkdir(parents=True)
    program = program.in_folder(folder / "home")
    _write_records(folder / "records")
    for name, hidden_size, num_layers in (("tiny", 16, 1), ("wide", 64, 5)):
        _train_from_scratch(program, folder / f"{name}.scratch", folder / name, hidden_size, num_layers)
    _copy_model(material.tiny, material.sharded)
    safetensors_file.write_shards(material.tiny / "model.safetensors", material.sharded)

    few = str(material.records("few.jsonl"))
    for name, adapter in (
        ("full", ""),
        ("lora", adapter_keys("lora", 2)),
        ("lambda_lora", adapter_keys("lambda_lora", 2)),
    ):
        place = folder / name
        place.mkdir()
        train = "\n[train]\nmax_steps = 2\nsave_steps = 1\neval_steps = 1\nper_device_train_batch_size = 2\n"
        dimensions = f"dimensions = {json.dumps(DIMENSIONS)}\neval_records = [{json.dumps(few)}]\n"
        config = run_config("lambda_dpo", model="../tiny", records=few, extra=dimensions + adapter + train)
        (place / "run.toml").write_text(config)
        _must(program.with_environment(LAMBDA_DPO_CACHE=str(place / "cache")), ["train", place / "run.toml"], place)
    model: list[str | Path] = ["--model", material.tiny]
    cpu: list[str | Path] = [*model, "--device", "cpu"]
    few_answers = ["--num-prompts", "2", "--max-new-tokens", "4"]
    _must(program, ["export", *model, "--to", "onnx", material.onnx], folder)
    _must(program, ["export", *model, "--to", "torchscript", material.torchscript], folder)
    adapter_of: list[str | Path] = ["--adapter", material.lambda_adapter, "--records", few]
    _must(program, ["steer", *cpu, *adapter_of, "--steps", "1", "--out", material.steer], folder)
    evaluate: list[str | Path] = ["evaluate", *cpu, "--adapter", material.lora, "--records", few, *few_answers]
    _must(program, [*evaluate, "--rater", f"sh {rater(folder)}", "--out", material.evaluation], folder)
    return material


def rater(folder: Path) -> Path:
    """A script that rates every text alike."""
    path = folder / "rater.sh"
    path.write_text("while read -r line; do echo '{\"score\": 1.0}'; done\n")
    return path


def _must(program: Program, arguments: list[str | Path], cwd: Path) -> None:
    outcome = program.run(arguments, cwd=cwd, limits=PATIENCE)
    if outcome.code != 0:
        raise SystemExit(f"{program.line(arguments)} failed:\n{outcome.stderr}")


def _train_from_scratch(program: Program, place: Path, model: Path, hidden_size: int, num_layers: int) -> None:
    """Random weights on disk: what a run without a step to learn from leaves."""
    write_tokenizer(place / "model")
    write_config(place / "model", hidden_size, num_layers)
    train = "\n[train]\nmax_steps = 1\nlearning_rate = 1e-2\nper_device_train_batch_size = 2\nsave_steps = 0\n"
    config = run_config("sft", model="model", records="sft.jsonl", extra=train)
    (place / "sft.jsonl").write_text(lines("sft.jsonl", 2))
    (place / "run.toml").write_text(config.replace('device = "cpu"', 'device = "cpu"\ninit = "random"'))
    _must(program, ["train", place / "run.toml"], place)
    (place / "run/model").rename(model)
    shutil.rmtree(place)


def _copy_model(model: Path, folder: Path) -> None:
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))


def _write_records(folder: Path) -> None:
    folder.mkdir()
    few = lines("records.jsonl", 4)
    parsed = [json.loads(line) for line in few.splitlines()]
    pairs, rankings, prompts = [], [], []
    for record in parsed:
        texts = [completion["response"] for completion in record["completions"]]
        prompt = record["instruction"]
        pairs.append({"prompt": prompt, "chosen": texts[0], "rejected": texts[1]})
        ranks = [number + 1 for number in range(len(texts))]
        rankings.append({"prompt": prompt, "responses": texts, "rankings": {"honesty": ranks}})
        prompts.append({"prompt": prompt})
    anchors = [{"lambda": {"honesty": share, "helpfulness": 1 - share}, "score": share} for share in (0.0, 0.5, 1.0)]

    def text(rows: list[dict[str, object]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    contents = {
        "few.jsonl": few,
        "one.jsonl": lines("records.jsonl", 1),
        "many.jsonl": lines("records.jsonl", 300),
        "array.json": json.dumps(parsed, ensure_ascii=False, indent=1),
        "chat.jsonl": lines("sft.jsonl", 4),
        "pairs.jsonl": text(pairs),
        "rankings.jsonl": text(rankings),
        "prompts.jsonl": text(prompts),
        "anchors.jsonl": text(anchors),
        "candidates.jsonl": text([{"lambda": anchor["lambda"]} for anchor in anchors]),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "few.jsonl.gz").write_bytes(gzip.compress(few.encode(), mtime=0))
    for path in (ROOT / "fixtures/tables").glob("*.[pz]*"):
        shutil.copyfile(path, folder / path.name)
