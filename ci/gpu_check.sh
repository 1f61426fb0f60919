#!/usr/bin/env bash
# Collects in target/gpu-check everything that checks and measures the library on a machine with CUDA and PyTorch
# 2.11.0, then runs it here. To check another machine, copy that folder there and run `python check.py` in it.
#
# Without a CUDA device the check says so and succeeds.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo build --release --locked --workspace
built=${CARGO_TARGET_DIR:-target}/release
folder=${CARGO_TARGET_DIR:-target}/gpu-check
rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib" "$folder/python"
install -m 755 "$built/bench" "$built/lambda-dpo" "$folder/bin/"
install -m 755 "$built/liblambda_dpo.so" "$folder/lib/liblambda_dpo.so"
cp -r plugin/python/src/lambda_dpo "$folder/python/"
mkdir "$folder/demo"
cp -r fixtures/demo/sft-model fixtures/demo/records.jsonl "$folder/demo/"
cp tests/gpu/check.py tests/gpu/program.py tests/gpu/llama.py "$folder/"
cp tests/bench/scenario.py tests/bench/serving.py tests/bench/sides.py "$folder/"
find "$folder" -name __pycache__ -prune -exec rm -rf {} +
echo "Copy $folder to the machine with the GPU and run \`python check.py\` in it."
PYTHONDONTWRITEBYTECODE=1 .venv/bin/python "$folder/check.py" "$@"
