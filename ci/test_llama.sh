#!/usr/bin/env bash
# Runs the tests of tests/python/llama in .venvs/llama (ci/setup_python.sh): llama.cpp with the LoRAs of a λ-adapter.
# LLAMA_TEST_MODEL=DIR takes another Llama model than the demo's.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
cargo build --release --locked --workspace --example write_adapter
ci/setup_python.sh llama
PYTHONDONTWRITEBYTECODE=1 .venvs/llama/bin/python -m pytest -q -p no:cacheprovider tests/python/llama
