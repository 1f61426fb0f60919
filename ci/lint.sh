#!/usr/bin/env bash
# What must hold before any test is worth running: format, clippy without a warning, the walls, generated files.
# Everything in the release profile, so that the tests after it find build scripts and macros built.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo fmt --all --check
cargo clippy --release --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --release --quiet --workspace --no-deps
cargo run --release --quiet -p lambda-dpo-ci -- walls
cargo run --release --quiet -p lambda-dpo-ci -- header --check
cargo run --release --quiet -p lambda-dpo-ci -- layout --check
.venv/bin/python fixtures/demo/make_records.py --check
.venv/bin/python fixtures/words/make_tokenizer.py --check
