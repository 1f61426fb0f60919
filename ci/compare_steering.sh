#!/usr/bin/env bash
# Measures what λ controls: compares a λ-adapter, a specialist for each dimension, their linear mix (a rewarded soup),
# and training on random λ that the model does not see. Ends with a table and OUT/report/index.html; every call trains
# and measures everything again.
#
#   ci/compare_steering.sh CONFIGS OUT MODEL EVAL_RECORDS RATER DIMENSION...
#
# CONFIGS contains specialist.toml, unconditioned.toml and lambda_adapter.toml; RATER is a command.
set -euo pipefail
cd "$(dirname "$0")/.."
configs=$1 out=$2 model=$3 eval_records=$4 rater=$5
dimensions=("${@:6}")
program=${CARGO_TARGET_DIR:-target}/release/lambda-dpo

started=$SECONDS
train() { # CONFIG NAME [KEY=VALUE]
  rm -rf "${out:?}/$2"
  "$program" train "$configs/$1.toml" "model.path=$model" "output_dir=$out/$2" "${@:3}"
}
soup=()
for dimension in "${dimensions[@]}"; do
  train specialist "$dimension" "lambda.dimension=$dimension"
  soup+=("$dimension=$out/$dimension/adapter")
done
train unconditioned unconditioned
train lambda_adapter lambda_adapter

steer() {
  "$program" steer --model "$model" --records "$eval_records" --rater "$rater" --beta 0.5 --max-new-tokens 96 \
    --num-samples 5 --batch-size 200 "$@"
}
steer --soup "${soup[@]}" --out "$out/soup" > /dev/null
steer --adapter "$out/unconditioned/adapter" --out "$out/unconditioned-report" > /dev/null
steer --adapter "$out/lambda_adapter/adapter" --out "$out/report" \
  --compare "soup=$out/soup" "unconditioned=$out/unconditioned-report"
echo "Training and reports took $((SECONDS - started)) s."
