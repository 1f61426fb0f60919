#!/usr/bin/env bash
# The paper's Finetuned-Base pipeline on the demo's island: SFT from random weights, then λ-DPO from the SFT model.
# Ends with a table of what λ-DPO changed on held-out prompts, and with one adapter that answers at three λ. Writes runs/demo, anew each time.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/build.sh
program=${CARGO_TARGET_DIR:-target}/release/lambda-dpo

rm -rf runs/demo
started=$SECONDS
"$program" train fixtures/demo/sft.toml
"$program" train fixtures/demo/lambda_dpo.toml
.venv/bin/python ci/demo_table.py runs/demo "$@"
echo "Both stages took $((SECONDS - started)) s."

# Control: one adapter, trained for a short while over random λ that it sees (`make steer-demo` is the whole comparison).
control=runs/demo/control
"$program" train fixtures/demo/steer/lambda_adapter.toml model.path=runs/demo/sft/model output_dir="$control" \
  train.num_train_epochs=6
policy=(--model runs/demo/sft/model --adapter "$control/adapter")
prompt="Tell me about the badger. Use at most 15 words and end with the word thanks."
printf '\nOne adapter at three λ: "%s"\n' "$prompt"
for dimension in helpfulness honesty instruction_following; do
  printf '  %s=1\n    ' "$dimension"
  "$program" generate "${policy[@]}" --lambda "$dimension=1" "$prompt"
done
"$program" steer "${policy[@]}" --records fixtures/demo/eval.jsonl --rater ".venv/bin/python fixtures/demo/rate.py" \
  --beta 0.5 --steps 2 --num-prompts 50 --max-new-tokens 96 --out "$control/report" > /dev/null
echo "Both stages and the control took $((SECONDS - started)) s."
printf '\nTo talk to it in a browser, with a slider for each dimension:\n  %s serve --model runs/demo/sft/model --adapter %s\n' \
  "$program" "$control/adapter"
