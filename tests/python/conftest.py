"""Settings for all tests: reproducible sums, and no network."""

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402  (after the environment is set)

# The number of threads changes the last bits of sums.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# These tests run in environments of their own, which have the package named here: `make test-python`, `make test-serve`,
# `make test-benchmarks` and `make test-llama`; those of `make test-web` need none of the settings above.
_ENVIRONMENTS = {
    "trainer": "lambda_dpo",
    "factory": "lambda_dpo",
    "serve": "lm_eval",
    "benchmarks": "lm_eval",
    "llama": "gguf",
}
collect_ignore = ["web"]
collect_ignore += [folder for folder, package in _ENVIRONMENTS.items() if importlib.util.find_spec(package) is None]
