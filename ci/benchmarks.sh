#!/usr/bin/env bash
# Measures MODEL, with ADAPTER at LAMBDA, on six benchmarks by lm-eval in .venvs/benchmarks: docs/lm-eval.md.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${MODEL:-}" ]; then
  echo "Give MODEL=DIR, and ADAPTER=DIR, LAMBDA=name=w,…, DATA=DIR, LIMIT=N, TASKS=mmlu,…, NUM_FEWSHOT=arc_challenge=25,…," \
    "OUT=FILE as needed (docs/lm-eval.md)." >&2
  exit 1
fi
if [ -n "${ADAPTER:-}" ]; then
  ci/build.sh
fi
ci/setup_python.sh benchmarks
arguments=(--model "$MODEL")
option() { if [ -n "$2" ]; then arguments+=("$1" "$2"); fi; }
option --adapter "${ADAPTER:-}"
option --lambda "${LAMBDA:-}"
option --data "${DATA:-}"
option --limit "${LIMIT:-}"
option --tasks "${TASKS:-}"
option --num-fewshot "${NUM_FEWSHOT:-}"
option --batch-size "${BATCH_SIZE:-}"
option --device "${DEVICE:-}"
option --out "${OUT:-}"
PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false exec .venvs/benchmarks/bin/python ci/benchmarks/run.py "${arguments[@]}"
