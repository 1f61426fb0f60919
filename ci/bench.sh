#!/usr/bin/env bash
# Every figure of docs/benchmarks.md: criterion's benchmarks, then the comparisons with PyTorch. Some 20 minutes on two
# cores with nothing else running.
#
#   ci/bench.sh                       measures all and writes docs/benchmarks.md
#   ci/bench.sh --quick               smaller and fewer, to see that it works; writes target/bench/quick.md
#   ci/bench.sh --only SECTION ...    one section again, and the report with it (tests/bench/run.py names them)
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
