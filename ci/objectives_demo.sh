#!/usr/bin/env bash
# Trains the demo's SFT model with every objective under uniform λ, with three seeds each, and measures all of them alike
# on held-out records. Writes runs/objectives and docs/objectives.md. Takes some 6 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/build.sh
program=${CARGO_TARGET_DIR:-target}/release/lambda-dpo
out=runs/objectives
rm -rf "$out"

# β of each: 0.1 for sums, as in the demo, and for ipo and orpo; SimPO's publication has 2 to 10. None was chosen by results.
measure() { # NAME REDUCTION KEY=VALUE...
  local name=$1 reduction=$2 seed
  for seed in 1 2 3; do
    "$program" train fixtures/demo/objectives/lora.toml "output_dir=$out/$name-$seed" "seed=$seed" "${@:3}"
    "$program" steer --model fixtures/demo/sft-model --adapter "$out/$name-$seed/adapter" \
      --records fixtures/demo/eval.jsonl --rater ".venv/bin/python fixtures/demo/rate.py" --reduction "$reduction" \
      --beta 0.1 --max-new-tokens 96 --batch-size 200 --seed "$seed" --out "$out/$name-$seed/report" > /dev/null
  done
}
measure start sum train.learning_rate=0 train.max_steps=1
measure listwise sum
measure plackett_luce sum loss.kind=plackett_luce
measure sigmoid sum stage=dpo
measure sigmoid_sft sum stage=dpo loss.sft_weight=1
measure hinge sum stage=dpo loss.kind=hinge
measure ipo mean stage=dpo loss.kind=ipo
measure simpo mean stage=dpo loss.kind=simpo loss.beta=2.5
measure orpo mean stage=dpo loss.kind=orpo
.venv/bin/python ci/objectives_table.py "$out" docs/objectives.md
