#!/usr/bin/env bash
# The paper's study: on the demo's island, or with MODEL=DIR RECORDS=F SFT=F on a model and records of your own, which
# docs/paper/real-model.toml or STUDY=F.toml describes. Makes only what is not made yet.
set -euo pipefail
cd "$(dirname "$0")/.."

study=${STUDY:-docs/paper/island.toml}
if [ -n "${MODEL:-}" ] && [ -z "${STUDY:-}" ]; then
  study=docs/paper/real-model.toml
fi
ci/build.sh
PYTHONDONTWRITEBYTECODE=1 exec .venv/bin/python ci/paper/run.py "$study"
