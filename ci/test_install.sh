#!/usr/bin/env bash
# Checks that `make install` makes a self-contained tree: installs it, moves it, and uses it from elsewhere with an
# empty environment. Nothing that it loads may come from the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

# Inside target, so that libtorch is hard-linked instead of copied. Deep, so that no relative rpath of the build folder
# leads anywhere.
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
for file in bin/lambda-dpo lib/liblambda_dpo.so lib/lambda-dpo/torch/lib/libtorch_cuda.so; do
  loads=$(env -i PATH="$PATH" ldd "$prefix/$file")
  if grep 'not found' <<<"$loads"; then fail "$file does not find all of its libraries"; fi
  if grep -F "$root" <<<"$loads" | grep -vF "$prefix"; then fail "$file loads a library from the checkout"; fi
done

cd /
run() { env -i "$prefix/bin/lambda-dpo" "$@"; }
run --version
# The plugin is found in ../lib; convert does not compute with libtorch, score does.
run convert --records "$root/fixtures/demo/eval.jsonl" --out "$base/samples.jsonl"
run score --model "$root/fixtures/demo/sft-model" --records "$root/fixtures/demo/eval.jsonl" --out "$base/scores.jsonl"
[ "$(wc -l <"$base/scores.jsonl")" -eq "$(wc -l <"$root/fixtures/demo/eval.jsonl")" ] || fail "score did not write one line per record"
# ONNX Runtime is found beside the installed libtorch.
run export --model "$root/fixtures/demo/sft-model" --to onnx "$base/onnx"
run validate --model "$root/fixtures/demo/sft-model" --onnx "$base/onnx" --records "$root/fixtures/demo/eval.jsonl" \
  >"$base/verdict.txt" || fail "the exported graph failed validation: $(cat "$base/verdict.txt")"
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror -fsyntax-only -x c "$prefix/include/lambda_dpo.h"
echo "test_install: the installed tree is self-contained"
