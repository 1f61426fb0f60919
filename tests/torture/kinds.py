"""Every kind of file that the program reads, with the cheapest command that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutations
from material import Material
from mutations import Mutate

Arguments = list[str | Path]


@dataclass(frozen=True)
class Kind:
    """A kind of file in a folder of its own, in which the command runs."""

    name: str
    file: str  # Relative to the folder.
    arguments: Arguments
    mutations: tuple[Mutate, ...]
    prepare: Callable[[Path], None]
    # An error may name one of these instead of the file: what the file describes, and is found wrong by.
    also: tuple[str, ...] = ()
    # It may come through a pipe, so that the program waits for whoever writes it.
    is_stream: bool = False
    # A checksum protects it: a damaged one is not used, and the run is as right as without it.
    result: str | None = None
    # The command's verdict on what it read is on stdout, and status 1 says that it is a bad one.
    has_verdict: bool = False
    # How many mutations it gets, beside other kinds.
    weight: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """What an error may name: by its name, whatever comes before it in a path."""
        return (Path(self.file).name, *self.also)


def copies(**sources: Path) -> Callable[[Path], None]:
    """Prepares a folder with copies of files and folders, by their names there (`a__b` is `a.b`)."""

    def prepare(folder: Path) -> None:
        for name, source in sources.items():
            target = folder / name.replace("__", ".")
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)

    return prepare


def kinds(material: Material) -> list[Kind]:
    """All kinds."""
    return [*_records(material), *_models(material), *_runs(material), *_reports(material)]


def _records(material: Material) -> list[Kind]:
    found = []
    for form, source, how in (
        ("ultrafeedback", "few.jsonl", mutations.JSON),
        ("pairs", "pairs.jsonl", mutations.JSON),
        ("chat", "chat.jsonl", mutations.JSON),
        ("rankings", "rankings.jsonl", mutations.JSON),
        ("ultrafeedback", "array.json", mutations.JSON),
        ("ultrafeedback", "few.jsonl.gz", mutations.BYTES),
        ("ultrafeedback", "few.jsonl.zst", mutations.BYTES),
        ("ultrafeedback", "few.parquet", mutations.BYTES),
        ("ultrafeedback", "plain.parquet", mutations.BYTES),
    ):
        path = material.records(source)
        name = "records." + source.split(".", 1)[1]
        arguments: Arguments = ["convert", "--format", form, "--records", name, "--out", "out.jsonl"]
        title = f"records: {form}, {source.split('.', 1)[1]}" if source != "plain.parquet" else "records: plain parquet"
        prepare = copies(**{name.replace(".", "__"): path})
        weight = 3 if "parquet" in source else 1
        found.append(Kind(title, name, arguments, how, prepare, is_stream=True, weight=weight))
    return found


def _models(material: Material) -> list[Kind]:
    one = material.records("one.jsonl")
    score: Arguments = ["score", "--device", "cpu", "--records", one, "--out", "out.jsonl"]
    of_model: Arguments = [*score, "--model", "model"]
    found = []

    def add(
        name: str, file: str, arguments: Arguments, how: tuple[Mutate, ...], weight: int = 1, **sources: Path
    ) -> None:
        # Weights that do not fit the config, or a text that cannot be encoded: it is the folder that is wrong.
        also = tuple({"model", Path(file).parts[0], "one.jsonl"})
        found.append(Kind(name, file, arguments, how, copies(**sources), also=also, weight=weight))

    for name, how, weight in (
        ("tokenizer.json", mutations.JSON, 3),
        ("tokenizer_config.json", mutations.JSON, 2),
        ("config.json", mutations.JSON, 3),
        ("model.safetensors", mutations.SAFETENSORS, 3),
    ):
        add(name, f"model/{name}", of_model, how, weight, model=material.tiny)
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] | trim }}\n{% endfor %}"

    def with_extras(folder: Path) -> None:
        shutil.copytree(material.tiny, folder / "model")
        (folder / "model/chat_template.jinja").write_text(template)
        special = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
        (folder / "model/special_tokens_map.json").write_text(json.dumps(special))
        (folder / "model/added_tokens.json").write_text('{"<|new|>": 374}')
        (folder / "model/generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [3, 1]}')

    for name, how in (
        ("chat_template.jinja", mutations.TEXT),
        ("special_tokens_map.json", mutations.JSON),
        ("added_tokens.json", mutations.JSON),
    ):
        found.append(Kind(name, f"model/{name}", of_model, how, with_extras, also=("model", "one.jsonl")))
    generate: Arguments = ["generate", "--device", "cpu", "--model", "model", "--max-new-tokens", "1", "--raw", "The"]
    file = "model/generation_config.json"
    found.append(Kind("generation_config.json", file, generate, mutations.JSON, with_extras, also=("model",)))
    index = "model.safetensors.index.json"
    add("index of shards", f"model/{index}", of_model, mutations.JSON, 1, model=material.sharded)
    shard = "model-00001-of-00002.safetensors"
    add("a shard", f"model/{shard}", of_model, mutations.SAFETENSORS, 1, model=material.sharded)
    with_adapter: Arguments = [*score, "--model", material.tiny, "--adapter", "adapter"]
    for kind, folder in (("LoRA", material.lora), ("λ-adapter", material.lambda_adapter)):
        for name, how in (
            ("adapter_config.json", mutations.JSON),
            ("adapter_model.safetensors", mutations.SAFETENSORS),
        ):
            add(f"{name} of a {kind}", f"adapter/{name}", with_adapter, how, 2, adapter=folder)
    validate: Arguments = ["validate", "--device", "cpu", "--model", material.tiny, "--records", one, "--onnx", "onnx"]
    graph, prepare = "onnx/model.onnx", copies(onnx=material.onnx)
    also = ("model", "onnx", "one.jsonl")
    found.append(Kind("ONNX graph", graph, validate, mutations.BYTES, prepare, also=also, has_verdict=True, weight=3))
    script: Arguments = [*score, "--model", material.tiny, "--torchscript", "script"]
    add("TorchScript module", "script/model.pt", script, mutations.BYTES, 3, script=material.torchscript)
    answer: Arguments = ["generate", "--device", "cpu", "--model", material.tiny, "--max-new-tokens", "1"]
    prompts: Arguments = [*answer, "--prompts", "prompts.jsonl", "--out", "out.jsonl"]
    prepare = copies(prompts__jsonl=material.records("prompts.jsonl"))
    found.append(Kind("prompts", "prompts.jsonl", prompts, mutations.JSON, prepare, is_stream=True))
    return found


def _runs(material: Material) -> list[Kind]:
    """Files that `train` reads: its config, what it resumes from, and its caches."""
    resume: Arguments = ["train", "run.toml", "train.resume=auto"]
    # Wherever a mutated config leads, a run is short.
    short = ["train.max_steps=1", "train.per_device_train_batch_size=1", "output_dir=run", "model.device=cpu"]
    fresh: Arguments = ["train", "run.toml", *short, "train.gradient_accumulation_steps=1", "train.eval_steps=1"]
    found = []

    def stopped(folder: Path) -> None:
        """As a kill after the first of two steps leaves it."""
        shutil.copytree(material.run, folder / "run")
        shutil.copytree(material.cache, folder / "cache")
        for name in ("model", "checkpoint-2", "trainer_state.json"):
            _remove(folder / "run" / name)
        (folder / "run.toml").write_text(_config(material, folder))

    def new(folder: Path) -> None:
        shutil.copytree(material.cache, folder / "cache")
        (folder / "run.toml").write_text(_config(material, folder))

    for name, how, weight in (
        ("trainer_state.json", mutations.JSON, 2),
        ("optimizer.safetensors", mutations.SAFETENSORS, 2),
        ("model.safetensors", mutations.SAFETENSORS, 1),
        ("config.json", mutations.JSON, 1),
    ):
        file = f"run/checkpoint-1/{name}"
        also = ("checkpoint-1", "run")
        found.append(Kind(f"checkpoint: {name}", file, resume, how, stopped, also=also, weight=weight))
    log = "run/metrics.jsonl"
    found.append(Kind("metrics.jsonl of a run that is resumed", log, resume, mutations.JSON, stopped, also=("run",)))
    keys = ("train.", "data.", "lambda.", "loss.", "model.", "reference.", "adapter.", "output_dir", "seed", "stage")
    # A path in it that is another leads to what is not there.
    named = (*keys, "records", "tiny", "few.jsonl", "does not exist: give a path", "name the record files")
    named = (*named, "cannot resume from")
    found.append(Kind("run.toml", "run.toml", fresh, mutations.TEXT, new, also=named, is_stream=True, weight=3))
    result = "run/model/model.safetensors"
    for name, pattern in (("tokenised records", "samples/*.samples"), ("reference log-probs", "reference/*.log_probs")):
        for number, path in enumerate(sorted(material.cache.glob(pattern))):
            file = f"cache/{path.relative_to(material.cache)}"
            title = name if number == 0 else f"{name} ({number + 1})"
            found.append(Kind(title, file, fresh, mutations.BYTES, new, also=("cache",), result=result))
    return found


def _reports(material: Material) -> list[Kind]:
    """Files that are read to be shown or fitted."""
    found = []

    def add(
        name: str,
        file: str,
        arguments: Arguments,
        how: tuple[Mutate, ...],
        prepare: Callable[[Path], None],
        is_stream: bool = False,
    ) -> None:
        also = tuple({Path(file).parts[0], Path(file).name})
        found.append(Kind(name, file, arguments, how, prepare, also=also, is_stream=is_stream))

    def run(folder: Path) -> None:
        shutil.copytree(material.run, folder / "run", ignore=shutil.ignore_patterns("checkpoint-*", "model"))
        shutil.copytree(material.evaluation, folder / "run/evaluation")
        task = {"metric": "acc", "value": 0.25, "stderr": 0.01, "num_questions": 100}
        benchmarks = {"lm_eval": "0.4.9", "tasks": {"mmlu": task}}
        (folder / "run/benchmarks.json").write_text(json.dumps(benchmarks))

    report: Arguments = ["report", "run", "--out", "report"]
    for name, how in (
        ("metrics.jsonl", mutations.JSON),
        ("run.toml", mutations.TEXT),
        ("evaluation/evaluation.json", mutations.JSON),
        ("benchmarks.json", mutations.JSON),
    ):
        add(f"{name} for `report`", f"run/{name}", report, how, run)
    fit: Arguments = ["schedule", "fit", "--out", "table.toml"]
    steer: Arguments = [*fit, "--steer", "steer", "--metric", "eval_rewards/accuracies"]
    add("steer.json", "steer/steer.json", steer, mutations.JSON, copies(steer=material.steer))
    scores: Arguments = [*fit, "--scores", "anchors.jsonl", "--candidates", "candidates.jsonl"]
    anchors = {f"{name}__jsonl": material.records(f"{name}.jsonl") for name in ("anchors", "candidates")}
    for name in ("anchors", "candidates"):
        add(f"{name} of `schedule fit`", f"{name}.jsonl", scores, mutations.JSON, copies(**anchors), is_stream=True)
    few = material.records("one.jsonl")
    judge: Arguments = ["--num-prompts", "1", "--max-new-tokens", "1", "--rater", "sh rater.sh"]
    evaluate: Arguments = ["evaluate", "--device", "cpu", "--model", material.tiny, "--reference", material.tiny]
    against: Arguments = [*evaluate, "--records", few, *judge, "--against", "answers", "--out", "out"]
    with_answers = copies(answers=material.evaluation, rater__sh=material.folder / "rater.sh")
    add("answers.jsonl for `evaluate --against`", "answers/answers.jsonl", against, mutations.JSON, with_answers)
    return found


def _config(material: Material, folder: Path) -> str:
    """The config of the material's run, for a folder elsewhere."""
    text = (material.run / "run.toml").read_text()
    return text.replace(str(material.run.parent), str(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
