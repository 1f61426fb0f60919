"""λ-DPO inside LLaMA-Factory: `lambda-dpo-factory train cfg.yaml` with `pref_loss: lambda_dpo`.

| module | what |
|---|---|
| `cli` | the command, and the entry point of torchrun's processes |
| `keys` | the `lambda_*` keys of a YAML file |
| `hooks` | replacements for parts of LLaMA-Factory, and the check that those parts exist |
| `data` | records to messages, and messages to tokens with LLaMA-Factory's templates |
| `workflow` | a training run |
"""
