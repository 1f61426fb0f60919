#!/usr/bin/env bash
# Runs tests/python/trainer with the oldest versions that the extra `trainer` accepts (plugin/python/setup.py): those
# that LLaMA-Factory pins, in its environment. TRL, DeepSpeed and bitsandbytes, which it does not have or has in other
# versions, are tested in the environment of the newest.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
ci/setup_python.sh factory
python=.venvs/factory/bin/python
LAMBDA_DPO_LIBRARY=$PWD/target/release/liblambda_dpo.so "$python" -m pip install --quiet --disable-pip-version-check \
  --no-deps --no-build-isolation --force-reinstall ./plugin/python
"$python" -m pip list --disable-pip-version-check 2>/dev/null | grep -E '^(transformers|peft|datasets|accelerate) '
ignored=()
for name in trl sharded lambda_lora_quantised; do
  ignored+=(--ignore "tests/python/trainer/test_$name.py")
done
PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider tests/python/trainer "${ignored[@]}"
