"""What every test here needs: sums that come out alike, and no network."""

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402  (after the environment is set)

# The number of threads changes sums in their last bits.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# These run in environments of their own, where the package is installed: `make test-python`.
if importlib.util.find_spec("lambda_dpo") is None:
    collect_ignore = ["trainer", "factory"]
