#!/usr/bin/env bash
# Runs docs/tutorial.md as it is written (ci/tutorial.py): half an hour on two cores with a model of 135 million
# parameters.
#
#   ci/tutorial.sh MODEL [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${1:-}" ]; then
  echo "name a chat model: make tutorial MODEL=DIR, or ci/tutorial.sh MODEL [OUT]" >&2
  exit 2
fi
if [ -z "${LAMBDA_DPO_PROGRAM:-}" ]; then
  ci/build.sh
fi
PYTHONDONTWRITEBYTECODE=1 exec .venv/bin/python ci/tutorial.py "$@"
