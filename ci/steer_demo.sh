#!/usr/bin/env bash
# What λ controls, on the demo's island: a λ-adapter, a specialist for each dimension, their linear mix (a rewarded soup),
# and training on random λ that the model does not see. Ends with a table and runs/steer/report/index.html; writes runs/steer
# anew each time. Some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo build --release --locked --workspace
program=${CARGO_TARGET_DIR:-target}/release/lambda-dpo
configs=fixtures/demo/steer
dimensions=(helpfulness honesty instruction_following truthfulness)

rm -rf runs/steer
started=$SECONDS
soup=()
for dimension in "${dimensions[@]}"; do
  "$program" train "$configs/specialist.toml" "lambda.dimension=$dimension" "output_dir=runs/steer/$dimension"
  soup+=("$dimension=runs/steer/$dimension/adapter")
done
"$program" train "$configs/unconditioned.toml"
"$program" train "$configs/lambda_adapter.toml"

steer() {
  "$program" steer --model fixtures/demo/sft-model --records fixtures/demo/eval.jsonl --rater builtin:island --beta 0.5 \
    --max-new-tokens 96 "$@"
}
steer --soup "${soup[@]}" --out runs/steer/soup > /dev/null
steer --adapter runs/steer/unconditioned/adapter --out runs/steer/unconditioned-report > /dev/null
steer --adapter runs/steer/lambda_adapter/adapter --out runs/steer/report \
  --compare soup=runs/steer/soup unconditioned=runs/steer/unconditioned-report
echo "Training and reports took $((SECONDS - started)) s."
