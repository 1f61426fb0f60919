#!/usr/bin/env bash
# Measures training and scoring on a real chat model and real texts, beside Transformers and PEFT, and writes the section
# "A chat model" of docs/benchmarks.md (tests/bench/chat_model.py). Takes about half an hour on two cores with nothing
# else running, for a model of 135 million parameters.
#
#   ci/bench_chat.sh MODEL              a folder of a Llama with a chat template; DATA has flask_responses.jsonl
#                                       [../shared/data]
#   ci/bench_chat.sh MODEL --quick      little text in one round, to check that it works; writes target/bench/quick
#   ci/bench_chat.sh MODEL --out FILE   writes the section into a copy of the report
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-}
data=${DATA:-../shared/data}
if [ ! -f "$model/config.json" ]; then
  echo "${model:-MODEL} is not a model folder: run make bench-chat MODEL=DIR with a Llama in Hugging Face's layout." >&2
  exit 2
fi
if [ ! -f "$data/flask_responses.jsonl" ]; then
  echo "$data has no flask_responses.jsonl: give a folder that has it as DATA=DIR." >&2
  exit 2
fi

ci/setup.sh --test
ci/setup_python.sh raters
cargo build --release --locked --workspace
records=${CARGO_TARGET_DIR:-target}/bench/chat-records
export PYTHONDONTWRITEBYTECODE=1
# The same answers as in docs/real-model.toml, short enough to train on them on a CPU, but six to a prompt.
.venvs/raters/bin/python ci/paper/text/records.py "$data/flask_responses.jsonl" "$records" \
  --num-responses 6 --num-train 40 --num-eval 41 --num-rest 0 --num-sft 0 --dimensions positivity,simplicity,brevity,variety \
  --max-prompt-chars 400 --max-response-chars 400
.venv/bin/python tests/bench/chat_model.py "$model" "$records" "${@:2}"
