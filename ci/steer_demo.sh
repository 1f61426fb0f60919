#!/usr/bin/env bash
# ci/compare_steering.sh on the demo's island, into runs/steer. Some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo build --release --locked --workspace
ci/compare_steering.sh fixtures/demo/steer runs/steer fixtures/demo/sft-model fixtures/demo/eval.jsonl \
  ".venv/bin/python fixtures/demo/rate.py" helpfulness honesty instruction_following truthfulness
