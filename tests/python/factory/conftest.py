"""Runs `lambda-dpo-factory` in processes forked from this one, which has already imported LLaMA-Factory."""

import json
import multiprocessing
import os
import sys

import pytest
import yaml
from tiny import records

import lambda_dpo.factory.cli as cli

# Imported before any fork, so that it is imported only once.
import llamafactory.train.tuner  # noqa: F401


class Factory:
    """Folder with records and configs; `train` runs the command on one of them."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        self.rows = records()
        self.write("uf", self.rows, {"formatting": "ultrafeedback"})

    def write(self, name, rows, attributes):
        """Adds a dataset."""
        (self.data / f"{name}.json").write_text(json.dumps(rows))
        path = self.data / "dataset_info.json"
        info = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(info | {name: {"file_name": f"{name}.json", **attributes}}))

    def config(self, model, out="out", **options):
        """Writes a config without the options that are None."""
        defaults = {
            "model_name_or_path": model,
            "stage": "dpo",
            "do_train": True,
            "finetuning_type": "full",
            "pref_loss": "lambda_dpo",
            "dataset": "uf",
            "dataset_dir": str(self.data),
            "template": "llama3",
            "cutoff_len": 512,
            "output_dir": str(self.folder / out),
            "logging_steps": 1,
            "max_steps": 4,
            "save_strategy": "no",
            "learning_rate": 2e-3,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 12,
            "per_device_eval_batch_size": 2,
            "report_to": "none",
            "use_cpu": True,
            "disable_gradient_checkpointing": True,
        }
        merged = {key: value for key, value in {**defaults, **options}.items() if value is not None}
        path = self.folder / f"{out}.yaml"
        path.write_text(yaml.safe_dump(merged))
        return path

    def environment(self):
        """Environment variables of every run."""
        return {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "LAMBDA_DPO_CACHE": str(self.folder / "cache"),
            "HF_DATASETS_CACHE": str(self.folder / "datasets"),
        }

    def train(self, *arguments, before=None, after_arguments=None, environment=None):
        """Runs the command and returns its exit code and output.

        `before` and `after_arguments` are called in its process, before and after sys.argv is set.
        """
        printed = self.folder / "printed.txt"

        def run():
            os.environ.update(self.environment() | (environment or {}))
            with printed.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
            if before is not None:
                before()
            sys.argv = ["lambda-dpo-factory", "train", *map(str, arguments)]
            if after_arguments is not None:
                after_arguments()
            cli.main()

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(300)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode, printed.read_text()

    def trained(self, *arguments, out="out", **options):
        """Runs the command, which must succeed, and returns Trainer's log."""
        code, printed = self.train(*arguments, **options)
        assert code == 0, printed[-4000:]
        return self.log(out)

    def log(self, out="out"):
        """Trainer's log."""
        return json.loads((self.folder / out / "trainer_state.json").read_text())["log_history"]


@pytest.fixture
def factory(tmp_path):
    return Factory(tmp_path)
