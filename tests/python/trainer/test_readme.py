"""The README's examples run as they are printed, with local files in place of the hub's, and on the CPU."""

import json
import re

from tiny import ROOT, make_model, records

README = (ROOT / "plugin" / "python" / "README.md").read_text()


def example(heading):
    """The first block of Python under a heading."""
    return re.search(r"```python\n(.*?)```", README.split(f"## {heading}\n")[1], re.DOTALL)[1]


def test_from_records_to_a_lambda_for_each_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAMBDA_DPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records()))
    source = example("One adapter for every λ")
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    stands_for = {
        '"meta-llama/Llama-3.1-8B-Instruct"': repr(make_model(tmp_path / "model")),
        "bf16=True": "use_cpu=True",
        '"openbmb/UltraFeedback"': '"json", data_files="records.jsonl"',
    }
    for name, local in stands_for.items():
        assert name in source
        source = source.replace(name, local)
    scope = {}
    exec(compile(source, "README.md", "exec"), scope)
    assert scope["trainer"].state.global_step > 0
    fields = json.loads((tmp_path / "runs" / "llama" / "adapter" / "adapter_config.json").read_text())
    assert fields["peft_type"] == "LAMBDA_LORA" and len(fields["dimensions"]) == 4
    assert "generated_text" in capsys.readouterr().out
