#!/usr/bin/env bash
# Trains λ-adapters in LLaMA-Factory on real texts and dialogues, and has the program measure what λ controls
# (ci/steer_factory.py). Writes runs/steer-factory and prints two tables; takes some minutes on two cores.
#
#   ci/steer_factory.sh [DATA]      a folder with flask_responses.jsonl, topical_chat.jsonl and stories260k
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-../shared/data}
for name in flask_responses.jsonl topical_chat.jsonl stories260k/config.json; do
  if [ ! -f "$data/$name" ]; then
    echo "steer_factory: skipped, because $data/$name is not there: give a folder that has it as DATA=DIR." >&2
    exit 0
  fi
done

make build
ci/setup_python.sh raters
ci/setup_python.sh factory
LAMBDA_DPO_LIBRARY=$PWD/target/release/liblambda_dpo.so .venvs/factory/bin/python -m pip install --quiet \
  --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./plugin/python
.venv/bin/python ci/steer_factory.py "$data" runs/steer-factory
