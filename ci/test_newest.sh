#!/usr/bin/env bash
# Runs tests/python/trainer with the versions of Transformers, PEFT, datasets, Accelerate, TRL and DeepSpeed that are
# the newest on PyPI today, whatever ci/requirements/trainer.txt has: in .venvs/newest, which is removed at the end
# unless KEEP=1. Torch is .venv's.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
ci/setup_python.sh trainer
folder=.venvs/newest
if [ "${KEEP:-}" != 1 ]; then trap 'rm -rf "$folder"' EXIT; fi
rm -rf "$folder"
.venv/bin/python -m venv "$folder"
python=$folder/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
realpath .venvs/trainer/torch >"$site/torch.pth"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 PIP_NO_CACHE_DIR=1
grep -v -e '^#' -e '^torch=' -e '^deepspeed' ci/requirements/trainer.in >"$folder/trainer.in"
"$python" -m pip install --upgrade -r "$folder/trainer.in"
# DeepSpeed is built as in ci/setup_python.sh, after the setuptools that builds it.
DS_BUILD_OPS=0 "$python" -m pip install --no-build-isolation deepspeed
LAMBDA_DPO_LIBRARY=$PWD/target/release/liblambda_dpo.so "$python" -m pip install --no-deps --no-build-isolation \
  ./plugin/python
PIP_QUIET=0 "$python" -m pip list | grep -E '^(transformers|peft|datasets|accelerate|trl|deepspeed) '
PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider --ignore tests/python/trainer/test_sharded.py tests/python/trainer
