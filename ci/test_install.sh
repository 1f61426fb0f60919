#!/usr/bin/env bash
# `make install` gives a tree that works by itself: it is installed, moved, and used from elsewhere with an empty
# environment; nothing it loads may come from the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

# Inside target, so that libtorch is linked and not copied; deep, so that no relative rpath of the build folder fits.
base=$root/target/test-install/a/b/c
rm -rf "$root/target/test-install"
mkdir -p "$base"
trap 'rm -rf "$root/target/test-install"' EXIT
ci/install.sh "$base/first"
mv "$base/first" "$base/second"
prefix=$base/second

fail() {
  echo "test_install: $*" >&2
  exit 1
}
for file in bin/lambda-dpo lib/liblambda_dpo.so; do
  bytes=$(stat -c %s "$prefix/$file")
  [ "$bytes" -lt $((40 << 20)) ] || fail "$file has $((bytes >> 20)) MiB: it should have less than 40"
done
for file in bin/lambda-dpo lib/liblambda_dpo.so lib/lambda-dpo/torch/lib/libtorch_cuda.so; do
  loads=$(env -i PATH="$PATH" ldd "$prefix/$file")
  if grep 'not found' <<<"$loads"; then fail "$file misses libraries"; fi
  if grep -F "$root" <<<"$loads" | grep -vF "$prefix"; then fail "$file loads from the checkout"; fi
done

cd /
run() { env -i "$prefix/bin/lambda-dpo" "$@"; }
run --version
# The plugin, found in ../lib, without and with libtorch's work.
run convert --records "$root/fixtures/demo/eval.jsonl" --out "$base/samples.jsonl"
run score --model "$root/fixtures/demo/sft-model" --records "$root/fixtures/demo/eval.jsonl" --out "$base/scores.jsonl"
[ "$(wc -l <"$base/scores.jsonl")" -eq "$(wc -l <"$root/fixtures/demo/eval.jsonl")" ] || fail "score left records out"
# ONNX Runtime, found beside the installed libtorch.
run export --model "$root/fixtures/demo/sft-model" --to onnx "$base/onnx"
run validate --model "$root/fixtures/demo/sft-model" --onnx "$base/onnx" --records "$root/fixtures/demo/eval.jsonl" \
  >"$base/verdict.txt" || fail "the exported graph does not validate: $(cat "$base/verdict.txt")"
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror -fsyntax-only -x c "$prefix/include/lambda_dpo.h"
echo "test_install: the installed tree works by itself"
