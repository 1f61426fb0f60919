#!/usr/bin/env bash
# Runs the numeric tests as other processors and thread counts compute: rounding differs between instruction sets, numbers of
# threads and the paths of MKL and oneDNN. A test that holds bit for bit does so within each setting.
set -euo pipefail
cd "$(dirname "$0")/.."

# The numeric tests: programs that are run as a whole; tests of `train` and unit tests, by parts of their names. The program
# must be built, because `train` runs it.
programs=(loss models adapters lambda_adapter libtorch)
runs=(same_step layouts_and_checkpointing_change_nothing equals bfloat16)
units=(products_of_16_bits strided_operands softmax_in_place optimizer::)

# Settings: a name, ATen's capability, MKL's and oneDNN's largest instruction sets. `native` limits nothing (AMX, if there is
# one); `avx2` is an AMD EPYC without AVX-512, on any processor by Intel.
settings=("default default SSE4_2 SSE41" "avx2 avx2 AVX2 AVX2" "avx512 avx512 AVX512 AVX512_CORE" "native")

has() {
  local flag
  for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done
}

can_run() {
  case $1 in
    avx2) has avx2 fma ;;
    avx512) has avx512f avx512bw avx512dq avx512vl fma ;;
    *) true ;;
  esac
}

ci/setup.sh
cargo build --release --quiet --locked --workspace
tests() { cargo test --release --quiet --locked --workspace "$@"; }
tests --no-run

for setting in "${settings[@]}"; do
  read -r name capability mkl onednn <<< "$setting"
  if ! can_run "$name"; then
    echo "test-cpus: $name is left out: this processor lacks it"
    continue
  fi
  for threads in 1 2 4; do
    echo "test-cpus: $name, $threads threads"
    (
      if [[ $name != native ]]; then
        export ATEN_CPU_CAPABILITY=$capability MKL_ENABLE_INSTRUCTIONS=$mkl ONEDNN_MAX_CPU_ISA=$onednn
      fi
      # Without MKL's own choice, which is at most one thread for each core.
      export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads MKL_DYNAMIC=FALSE
      tests "${programs[@]/#/--test=}"
      tests --test=train -- "${runs[@]}"
      tests --lib -- "${units[@]}"
    )
  done
done
