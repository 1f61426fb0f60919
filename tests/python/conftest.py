"""Settings for all tests: reproducible sums, and no network."""

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402  (after the environment is set)

# The number of threads changes the last bits of sums.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# These tests run in environments of their own: `make test-web`, and with the package installed `make test-python`.
collect_ignore = ["web"]
if importlib.util.find_spec("lambda_dpo") is None:
    collect_ignore += ["trainer", "factory"]
