#!/usr/bin/env bash
# Builds the Python package as a wheel with the library from target/release, installs it into two environments
# (ci/setup_python.sh), checks its types, and runs its tests with Transformers and in LLaMA-Factory. With `--sharded`, it
# runs instead the tests of processes that share weights, which take several minutes.
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

library=$(echo .venvs/trainer/lib/python3.*/site-packages/lambda_dpo/liblambda_dpo.so)
bytes=$(stat -c %s "$library")
if [ "$bytes" -ge $((40 << 20)) ]; then
  echo "test_python: $library has $((bytes >> 20)) MiB: it should have less than 40" >&2
  exit 1
fi

.venvs/trainer/bin/python -m mypy --config-file plugin/python/pyproject.toml --cache-dir target/mypy plugin/python/src
export PYTHONDONTWRITEBYTECODE=1
sharded=tests/python/trainer/test_sharded.py
if [ "${1:-}" = --sharded ]; then
  .venvs/trainer/bin/python -m pytest -q -p no:cacheprovider "$sharded"
  exit 0
fi
for name in trainer factory; do
  # Two at a time, each on one thread: with more, threads of tiny products wait for each other.
  OMP_NUM_THREADS=1 .venvs/$name/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadscope --durations 10 \
    --ignore "$sharded" "tests/python/$name"
done
