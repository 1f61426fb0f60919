#!/usr/bin/env bash
# Runs ci/compare_steering.sh on continuations of stories by MODEL, a model of children's stories, and writes
# runs/stories. Takes a few minutes on two cores.
#
#   ci/steer_stories.sh MODEL
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-}
if [ ! -f "$model/config.json" ]; then
  echo "${model:-MODEL} is not a model folder: run make steer-stories MODEL=DIR with a model of children's stories in" \
    "Hugging Face's layout that has a chat template." >&2
  exit 2
fi

ci/setup.sh --test # transformers samples the records
ci/build.sh
.venv/bin/python fixtures/stories/make_records.py "$model" runs/stories/data
ci/compare_steering.sh fixtures/stories/steer runs/stories "$model" runs/stories/data/eval.jsonl \
  ".venv/bin/python fixtures/stories/rate.py" happy dialogue variety sad
