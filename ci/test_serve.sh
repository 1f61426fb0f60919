#!/usr/bin/env bash
# Runs the tests of tests/python/serve in .venvs/serve (ci/setup_python.sh): clients of OpenAI's API with the server.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
cargo build --release --locked --workspace --example write_adapter
ci/setup_python.sh serve
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
.venvs/serve/bin/python -m pytest -q -p no:cacheprovider tests/python/serve
