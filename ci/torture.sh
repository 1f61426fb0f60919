#!/usr/bin/env bash
# Kills the program at random moments, starves it of disk, feeds it damaged files and runs it beside itself
# (tests/torture/campaign.py says how): TORTURE_MINUTES (25) of it, everything random from TORTURE_SEED. Fails on any
# loss. `--short` takes about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${LAMBDA_DPO_PROGRAM:-}" ]; then
  ci/build.sh
fi
PYTHONDONTWRITEBYTECODE=1 exec .venv/bin/python tests/torture/campaign.py "$@"
