"""λ-DPO inside LLaMA-Factory: `lambda-dpo-factory train cfg.yaml` with `pref_loss: lambda_dpo`.

| module | what |
|---|---|
| `cli` | the command, and what torchrun starts |
| `keys` | our `lambda_*` keys of a YAML file |
| `hooks` | what is put in the place of LLaMA-Factory's own, and the check that it is there |
| `data` | records → messages, messages → tokens, by LLaMA-Factory's templates |
| `workflow` | a run |
"""
