#!/usr/bin/env bash
# Runs the README's commands for installing the Python package, with each of its extras, in an empty environment each, and
# its examples there with a tiny model; with the extra `trainer` also beside TRL.
#
#   ci/test_install_python.sh             with torch 2.11.0
#   ci/test_install_python.sh 2.15.0      with another torch
#
# An environment takes up to 8 GB and is removed before the next is made; pip downloads some 6 GB in all.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-2.11.0}
base=$(mktemp -d "$PWD/target/install-python-XXXXXX")
trap 'rm -rf "$base"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 HF_HOME=$base/hub PYTHONDONTWRITEBYTECODE=1
ci/setup.sh --check

# Makes an empty environment and installs torch and the package with an extra, as the README says.
make_environment() {
  rm -rf "$base/venv"
  "${PYTHON:-python3}" -m venv "$base/venv"
  "$base/venv/bin/pip" install --quiet "torch==$version"
  "$base/venv/bin/pip" install --quiet "./plugin/python[$1]"
  "$base/venv/bin/pip" check
}

make_environment trainer
"$base/venv/bin/python" tests/python/install/run_readme.py
"$base/venv/bin/pip" install --quiet trl==1.16.0
"$base/venv/bin/pip" check
"$base/venv/bin/python" tests/python/install/run_readme.py trl

make_environment factory
"$base/venv/bin/python" tests/python/install/write_factory_inputs.py "$base"
"$base/venv/bin/lambda-dpo-factory" train plugin/python/examples/llama-3.1-8b-lora.yaml \
  model_name_or_path="$base/model" dataset_dir="$base" output_dir="$base/out" max_steps=2 max_samples=8 val_size=0.25 \
  preprocessing_num_workers=1 use_cpu=true bf16=false plot_loss=false logging_steps=1 report_to=none
[ -f "$base/out/adapter_model.safetensors" ] || {
  echo "test_install_python: lambda-dpo-factory saved no adapter" >&2
  exit 1
}
echo "test_install_python: both extras install beside torch $version, and the examples run"
