#!/usr/bin/env bash
# Measures every figure in docs/benchmarks.md: criterion's benchmarks, then the comparisons with PyTorch. Takes about 20
# minutes on two cores with nothing else running.
#
#   ci/bench.sh                       measures everything and writes docs/benchmarks.md
#   ci/bench.sh --quick               fewer and smaller runs, to check that it works; writes target/bench/quick.md
#   ci/bench.sh --only SECTION ...    measures sections again and rewrites the report (tests/bench/run.py lists them)
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh --test
export OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 RAYON_NUM_THREADS=2
cargo build --release --locked --workspace
case " $* " in
  *" --only "* | *" --help "*) ;;
  *) cargo bench --locked --workspace --bench core --bench host ;;
esac
PYTHONDONTWRITEBYTECODE=1 .venv/bin/python tests/bench/run.py "$@"
