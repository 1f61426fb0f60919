"""A server with a random λ-adapter on the demo's model, and the program to compare it with."""

import os
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PROGRAM = Path(os.environ.get("LAMBDA_DPO_PROGRAM", BUILT / "lambda-dpo"))
MODEL = ROOT / "fixtures" / "demo" / "sft-model"
NAME = "demo"

# One thread, as in the tests, so that sums are rounded alike.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


class Policy:
    """The model with a λ-adapter over the dimensions a, b and c."""

    def __init__(self, folder):
        example = BUILT / "examples" / "write_adapter"
        subprocess.run([example, MODEL, folder], check=True, env=ENVIRONMENT)
        self.arguments = ["--model", MODEL, "--adapter", folder / "lambda_adapter"]

    def run(self, command, *arguments):
        """Runs a command of the program on the policy; returns what it prints."""
        arguments = [PROGRAM, command, *self.arguments, *arguments]
        return subprocess.run(arguments, check=True, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True).stdout

    def generate(self, weights, prompt, max_tokens):
        """Greedy text of `generate --lambda`."""
        weights = ",".join(f"{name}={weight}" for name, weight in weights.items())
        return self.run(
            "generate", "--device", "cpu", "--lambda", weights, "--max-new-tokens", str(max_tokens), prompt
        ).removesuffix("\n")

    @contextmanager
    def serve(self, *arguments):
        """Runs a server; gives its address."""
        command = [PROGRAM, "serve", "--device", "cpu", "--port", "0", "--name", NAME, *self.arguments, *arguments]
        server = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        said = []
        try:
            for line in server.stderr:
                said.append(line)
                if line.startswith("listening on "):
                    break
            else:
                pytest.fail(f"the server ended: {''.join(said)}")
            # The pipe is read on, so that it does not fill up.
            threading.Thread(target=lambda: said.extend(server.stderr), daemon=True).start()
            yield said[-1].removeprefix("listening on ").strip()
        finally:
            server.terminate()
            assert server.wait(timeout=60) == 0, "".join(said)


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    return Policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def address(policy):
    with policy.serve() as address:
        yield address
