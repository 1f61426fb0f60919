"""Writes a tiny model and the demo's records as `ultrafeedback` for LLaMA-Factory: write_factory_inputs.py FOLDER."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from tiny import make_model  # noqa: E402


def main():
    folder = Path(sys.argv[1])
    make_model(folder / "model")
    records = ROOT / "fixtures" / "demo" / "eval.jsonl"
    described = {"ultrafeedback": {"file_name": str(records), "formatting": "ultrafeedback"}}
    (folder / "dataset_info.json").write_text(json.dumps(described))


if __name__ == "__main__":
    main()
