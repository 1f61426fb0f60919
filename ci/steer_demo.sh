#!/usr/bin/env bash
# Runs ci/compare_steering.sh on the island of the demo and writes runs/steer. Takes a few minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/build.sh
ci/compare_steering.sh fixtures/demo/steer runs/steer fixtures/demo/sft-model fixtures/demo/eval.jsonl \
  ".venv/bin/python fixtures/demo/rate.py" helpfulness honesty instruction_following truthfulness
