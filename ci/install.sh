#!/usr/bin/env bash
# Installs the program, the plugin, its header and the libtorch they need, as a tree that works without the checkout:
#
#   PREFIX/bin/lambda-dpo
#   PREFIX/lib/liblambda_dpo.so
#   PREFIX/include/lambda_dpo.h
#   PREFIX/lib/lambda-dpo/torch/lib, PREFIX/lib/lambda-dpo/nvidia    as in the wheels, so that their own rpaths hold
#   PREFIX/lib/lambda-dpo/onnxruntime/capi                           found from libtorch's folder
#
# libtorch's files are hard links to those in .venv where PREFIX is on the same filesystem, else copies (some 4 GB).
set -euo pipefail
if [ $# -ne 1 ] || [ -z "$1" ]; then
  echo "usage: make install PREFIX=DIR" >&2
  exit 2
fi
prefix=$(realpath -m -- "$1")
cd "$(dirname "$0")/.."

ci/build.sh
built=${CARGO_TARGET_DIR:-target}/release

mkdir -p "$prefix/bin" "$prefix/lib" "$prefix/include"
# `install` replaces a file by a new one, so that a program which is running goes on undisturbed.
install -m 755 "$built/lambda-dpo" "$prefix/bin/lambda-dpo"
install -m 755 "$built/liblambda_dpo.so" "$prefix/lib/liblambda_dpo.so"
install -m 644 plugin/include/lambda_dpo.h "$prefix/include/lambda_dpo.h"

# The libraries are gathered beside their place and moved there whole.
packages=$(realpath .libtorch/..)
target=$prefix/lib/lambda-dpo
staging=$target.new
rm -rf "$staging"
mkdir -p "$staging"
link=(cp -a)
if cp -al "$packages/torch/version.py" "$staging/probe" 2>/dev/null; then
  link=(cp -al)
fi
rm -f "$staging/probe"
copy_libraries() {
  local folder=$1
  mkdir -p "$staging/$folder"
  find "$packages/$folder" -maxdepth 1 -name '*.so*' ! -name 'libtorch_python*' ! -name '*pybind11*' -print0 |
    xargs -0 -r "${link[@]}" -t "$staging/$folder"
}
copy_libraries torch/lib
for folder in "$packages"/nvidia/*/lib; do
  [ -d "$folder" ] && copy_libraries "${folder#"$packages"/}"
done
copy_libraries onnxruntime/capi
rm -rf "$target"
mv "$staging" "$target"
echo "Installed into $prefix: try $prefix/bin/lambda-dpo --help"
