#!/usr/bin/env bash
# λ on a real chat model (ci/real_model/compare.py), as docs/real-model.toml or STUDY=F.toml describes; writes
# docs/real-model.md. Makes only what is not made yet.
#
#   ci/steer_real.sh MODEL [DATA]     DATA has flask_responses.jsonl and ultrachat_sample.jsonl [../shared/data]
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-}
data=${DATA:-../shared/data}
if [ ! -f "$model/config.json" ]; then
  echo "${model:-MODEL} is not a model folder: run make steer-real MODEL=DIR with a chat model in Hugging Face's layout." >&2
  exit 2
fi
if [ ! -f "$data/flask_responses.jsonl" ] || [ ! -f "$data/ultrachat_sample.jsonl" ]; then
  echo "$data has no flask_responses.jsonl or no ultrachat_sample.jsonl: give a folder that has them as DATA=DIR." >&2
  exit 2
fi

ci/build.sh
ci/setup_python.sh raters
ci/setup_python.sh benchmarks
MODEL=$model DATA=$data PYTHONDONTWRITEBYTECODE=1 exec .venv/bin/python ci/real_model/compare.py \
  "${STUDY:-docs/real-model.toml}"
