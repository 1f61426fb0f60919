#!/usr/bin/env bash
# Builds the Python package as `pip install ./plugin/python` does, in an environment with another torch than .venv's, and
# runs its tests with Transformers there: make test-torch VERSION=2.13.0.
#
# .venvs/torch-VERSION has that torch from PyPI with all that it depends on (4 to 7 GB: libtorch does not load without
# CUDA's libraries), and sees the other packages of .venvs/trainer. It is removed at the end, unless KEEP=1.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-}
if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
  echo "test_torch: which torch? Run make test-torch VERSION=2.13.0, for example." >&2
  exit 1
fi
folder=.venvs/torch-$version
make build # The tests compare with the program, which stays with .venv's torch.
ci/setup_python.sh trainer
if [ "${KEEP:-}" != 1 ]; then trap 'rm -rf "$folder"' EXIT; fi

python=$folder/bin/python
if [ "$(cat "$folder/.lambda-dpo" 2>/dev/null)" != "$version" ]; then
  echo "Making $folder ..."
  rm -rf "$folder"
  .venv/bin/python -m venv "$folder"
  "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --only-binary :all: \
    "torch==$version" "setuptools>=77,<82"
  # After the environment's own folder, so that torch and its dependencies are those installed here.
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  realpath .venvs/trainer/lib/python3.*/site-packages >"$site/trainer.pth"
  printf %s "$version" >"$folder/.lambda-dpo"
fi

"$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall ./plugin/python
export PYTHONDONTWRITEBYTECODE=1
"$python" -c "import lambda_dpo, torch; assert torch.__version__.split('+')[0] == '$version', torch.__version__
assert lambda_dpo.__file__.startswith('$(realpath -s "$folder")'), lambda_dpo.__file__"
echo "torch $version:"
"$python" -m pytest -q -p no:cacheprovider --ignore tests/python/trainer/test_sharded.py tests/python/trainer
