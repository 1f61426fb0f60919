#!/usr/bin/env bash
# Builds the Python package as a wheel with the library from target/release, installs it into two environments
# (ci/setup_python.sh), checks its types, and runs its tests with Transformers and in LLaMA-Factory.
set -euo pipefail
cd "$(dirname "$0")/.."

make build
for name in trainer factory; do
  ci/setup_python.sh "$name"
done

rm -rf target/wheel
LAMBDA_DPO_LIBRARY=$PWD/target/release/liblambda_dpo.so .venvs/trainer/bin/python -m pip wheel --quiet \
  --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir target/wheel ./plugin/python
for name in trainer factory; do
  .venvs/$name/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall \
    target/wheel/lambda_dpo-*.whl
done

.venvs/trainer/bin/python -m mypy --config-file plugin/python/pyproject.toml --cache-dir target/mypy plugin/python/src
export PYTHONDONTWRITEBYTECODE=1
for name in trainer factory; do
  .venvs/$name/bin/python -m pytest -q -p no:cacheprovider "tests/python/$name"
done
