#!/usr/bin/env bash
# Runs every check: lint, the workspace's tests, and the comparisons with transformers and peft.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh --test
ci/lint.sh
cargo test --release --locked --workspace
PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m pytest -q -p no:cacheprovider tests/python
