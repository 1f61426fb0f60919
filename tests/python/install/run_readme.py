"""Runs the example of `transformers.Trainer` in plugin/python/README.md, on a CPU with the demo's model and records.

    python tests/python/install/run_readme.py             # after the import of lambda_dpo alone
    python tests/python/install/run_readme.py trl         # after that of TRL's DPOTrainer, too
"""

import json
import math
import re
import sys
import tempfile
from pathlib import Path

import datasets
from peft import LoraConfig

from lambda_dpo import LambdaDPOConfig, LambdaDPOTrainer

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "fixtures" / "demo"


def load_dataset(_name, split):
    """Four of the demo's records, in place of a dataset from the hub."""
    rows = (DEMO / "eval.jsonl").read_text().splitlines()[:4]
    return datasets.Dataset.from_list([json.loads(row) for row in rows], split=split)


def readme_example():
    """Returns the README's code for `transformers.Trainer`."""
    readme = (ROOT / "plugin" / "python" / "README.md").read_text()
    section = re.search(r"^## transformers\.Trainer$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def replaced(code, old, new):
    """Replaces what must occur, so that a change of the README is noticed here."""
    assert old in code, f"the README's example no longer has {old}"
    return code.replace(old, new)


def main():
    if sys.argv[1:] == ["trl"]:
        import trl

        assert trl.DPOTrainer.__name__ == "DPOTrainer"
        print(f"beside trl {trl.__version__}: ", end="")
    with tempfile.TemporaryDirectory() as folder:
        code = replaced(readme_example(), '"meta-llama/Llama-3.1-8B-Instruct"', repr(str(DEMO / "sft-model")))
        code = replaced(code, '"runs/llama"', repr(folder))
        code = replaced(code, "bf16=True", "use_cpu=True, report_to='none'")
        names = {
            "LambdaDPOConfig": LambdaDPOConfig,
            "LambdaDPOTrainer": LambdaDPOTrainer,
            "LoraConfig": LoraConfig,
            "load_dataset": load_dataset,
        }
        exec(compile(code, "README.md", "exec"), names)
    trainer = names["trainer"]
    loss = trainer.state.log_history[-1]["train_loss"]
    assert trainer.state.global_step > 0 and math.isfinite(loss)
    print(f"{trainer.state.global_step} steps of the README's example, loss {loss:.4f}")


if __name__ == "__main__":
    main()
