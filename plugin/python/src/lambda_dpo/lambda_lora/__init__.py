"""The λ-adapter as a method of PEFT: one adapter that is a LoRA at every λ.

    y = W x + scaling · B (s(λ) ⊙ (A x)),   s(λ) = (1, …, 1, λ_1, …, λ_1, …, λ_M)

with scaling = alpha / rank_per_dimension, A `[R, in]`, B `[out, R]` and R = r + M · rank_per_dimension (docs/method.md, after Panacea, arXiv 2402.02030).

| module | what |
|---|---|
| `weights` | λ in words and numbers, by the rules of the program's `--lambda` |
| `config` | `LambdaLoraConfig` |
| `context` | the λ that an adapter's layers see |
| `layer` | the matrix B that sees λ, and merging at a λ |
| `checkpoint` | gradient checkpointing that recomputes a layer at the λ of its forward |
| `model` | the tuner, and `set_lambda` |
| `register` | makes PEFT know all of this; runs when PEFT is imported |
| `batches` | the λ of the trainer's batches |
"""

# First, because PEFT's import registers what is in this package, and needs all of it.
import peft  # noqa: F401
