#!/usr/bin/env bash
# ci/compare_steering.sh on the demo's island, into runs/steer. Some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/build.sh
ci/compare_steering.sh fixtures/demo/steer runs/steer fixtures/demo/sft-model fixtures/demo/eval.jsonl builtin:island \
  helpfulness honesty instruction_following truthfulness
