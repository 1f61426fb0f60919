#!/usr/bin/env bash
# The paper's Finetuned-Base pipeline on the demo's island: SFT from random weights, then λ-DPO from the SFT model.
# Ends with a table of what λ-DPO changed on held-out prompts. Writes runs/demo, anew each time.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
# The whole workspace: a part of it has other features of its dependencies, and what `make test` built would not serve.
cargo build --release --locked --workspace
program=${CARGO_TARGET_DIR:-target}/release/lambda-dpo

rm -rf runs/demo
started=$SECONDS
"$program" train fixtures/demo/sft.toml
"$program" train fixtures/demo/lambda_dpo.toml
.venv/bin/python ci/demo_table.py runs/demo "$@"
echo "Both stages took $((SECONDS - started)) s."
