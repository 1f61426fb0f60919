# Tasks. `make` lists them; the work is done by the scripts in ci/.

.DEFAULT_GOAL := help
.PHONY: help setup build demo steer-demo check-steering steer-stories steer-real tutorial steer-factory objectives-demo test test-cpus test-python test-sharded test-newest test-oldest test-torch test-install-python test-serve test-llama test-web test-big lint bench bench-chat bench-serving benchmarks test-benchmarks paper gpu-check fmt generate fuzz valgrind asan torture supply docs install

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv (torch 2.11.0) and link .libtorch to it; reports what the machine lacks
	@ci/setup.sh

build: ## build program and plugin into target/release
	@ci/build.sh

demo: ## SFT, then λ-DPO, of a tiny Llama; ends with a table of what changed, and answers at three λ (about 2 minutes)
	@ci/demo.sh $(DEMO_FLAGS)

steer-demo: ## λ-adapter, specialists, soup and unconditioned training compared; ends with a table and a page (under 15 minutes)
	@ci/steer_demo.sh

steer-stories: ## the same on stories sampled from MODEL=DIR, a model of children's stories
	@ci/steer_stories.sh "$(MODEL)"

steer-real: ## λ on a real chat model, MODEL=DIR, beside specialists, their soup and unconditioned training (hours)
	@ci/steer_real.sh "$(MODEL)"

tutorial: ## the commands of docs/tutorial.md as they are written there, with MODEL=DIR (half an hour)
	@ci/tutorial.sh "$(MODEL)"

steer-factory: ## λ-adapters trained in LLaMA-Factory and in the program on DATA (../shared/data), measured by steer
	@ci/steer_factory.sh "$(DATA)"

check-steering: steer-demo ## steer-demo, then fails if a score does not rise with its λ, or less than the soup's
	@.venv/bin/python ci/check_steering.py runs/steer/report runs/steer/soup

objectives-demo: ## every objective under uniform λ, three seeds each; writes docs/objectives.md (about 6 minutes)
	@ci/objectives_demo.sh

paper: ## the paper's study on the demo's island, or with MODEL=DIR RECORDS=F SFT=F; writes docs/paper.md (12 minutes on the island, with two cores)
	@ci/paper.sh

test: ## lint and every test, including the comparisons with transformers and peft
	@ci/test.sh

test-cpus: ## the numeric tests with the instruction sets of other processors and 1, 2 and 4 threads
	@ci/test_cpus.sh

test-python: ## the Python package with Transformers and in LLaMA-Factory (2 GB of packages the first time)
	@ci/test_python.sh

test-sharded: ## DeepSpeed's ZeRO-2 and ZeRO-3 and FSDP2 with two processes on the CPU (minutes; not part of CI)
	@ci/test_python.sh --sharded

test-newest: ## tests/python/trainer with the newest packages on PyPI today (not part of CI; 1 GB, removed at the end)
	@ci/test_newest.sh

test-oldest: ## tests/python/trainer with the oldest packages that are supported (not part of CI)
	@ci/test_oldest.sh

test-torch: ## the Python package built against and tested beside torch VERSION=2.13.0, say (not part of CI)
	@ci/test_torch.sh "$(VERSION)"

test-install-python: ## the README's commands for installing the Python package, in empty environments (not part of CI)
	@ci/test_install_python.sh

test-serve: ## the server with OpenAI's client and lm-eval (0.4 GB of packages the first time)
	@ci/test_serve.sh

test-llama: ## the LoRAs of a λ-adapter in llama.cpp (0.4 GB of packages the first time; not part of CI)
	@ci/test_llama.sh

test-benchmarks: ## `make benchmarks` on a tiny model and files of its own (0.4 GB of packages the first time)
	@ci/test_benchmarks.sh

test-web: ## the page of `serve` in a browser (Debian's chromium); screenshots in target/web
	@ci/test_web.sh

test-big: ## 2 GB of records in less than 1 GiB of memory (needs 6 GB of disk and some minutes)
	@ci/setup.sh
	@.venv/bin/python ci/big_data.py $(BIG_FLAGS)

lint: ## format, clippy, crate walls, layers, circles of files, generated files
	@ci/lint.sh

bench: ## criterion and the comparison with PyTorch; writes docs/benchmarks.md (20 minutes; BENCH_FLAGS=--quick for 4)
	@ci/bench.sh $(BENCH_FLAGS)

bench-chat: ## training and scoring on a real chat model, MODEL=DIR, beside Transformers and PEFT; writes docs/benchmarks.md
	@ci/bench_chat.sh "$(MODEL)" $(BENCH_FLAGS)

bench-serving: ## the server beside Transformers and llama.cpp, and many λ beside one, on MODEL=DIR; writes docs/benchmarks.md
	@ci/setup.sh --test
	@ci/setup_python.sh llama
	@ci/build.sh
	@.venv/bin/python tests/bench/decoding.py "$(MODEL)"

benchmarks: ## MODEL=DIR, with ADAPTER=DIR at LAMBDA=…, on MMLU, ARC, HellaSwag, TruthfulQA, WSC273 and GSM8K (docs/lm-eval.md)
	@ci/benchmarks.sh

gpu-check: ## collect what a CUDA machine needs to check and measure the library, and run it here too
	@ci/gpu_check.sh $(GPU_FLAGS)

fmt: ## format the code
	@cargo fmt --all

generate: ## write the files that are generated from sources: lambda_dpo.h, the ABI layout, the JSON Schemas
	@cargo run --release --quiet -p lambda-dpo-ci -- header
	@cargo run --release --quiet -p lambda-dpo-ci -- layout
	@UPDATE_SCHEMAS=1 cargo test --release --quiet --workspace --test schemas -- the_committed_schemas > /dev/null

fuzz: ## run each fuzz target for FUZZ_SECONDS (60); fails on a finding
	@ci/fuzz.sh

valgrind: ## the C example and the tests of misuse under valgrind
	@ci/valgrind.sh

asan: ## the tests of the plugin's contract with AddressSanitizer (a build of its own: 10 minutes; not part of CI)
	@ci/asan.sh

torture: ## kill it, starve it, feed it rubbish, for TORTURE_MINUTES (25); ends with a table and fails on any loss
	@ci/torture.sh $(TORTURE_FLAGS)

supply: ## licences and sources of crates, the Rust they need, and known vulnerabilities of crates and Python packages
	@ci/supply.sh

docs: ## API documentation into target/doc
	@ci/setup.sh
	@cargo doc --workspace --no-deps

install: ## program, plugin, header and libtorch into PREFIX=DIR, independent of this checkout
	@ci/install.sh "$(PREFIX)"
