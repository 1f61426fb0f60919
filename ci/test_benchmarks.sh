#!/usr/bin/env bash
# Runs the tests of tests/python/benchmarks in .venvs/benchmarks (ci/setup_python.sh): lm-eval on local files, and the
# raters of texts.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
cargo build --release --locked --workspace --example write_adapter
ci/setup_python.sh benchmarks
ci/setup_python.sh raters
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
.venvs/benchmarks/bin/python -m pytest -q -p no:cacheprovider tests/python/benchmarks
