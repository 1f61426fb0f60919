"""Servers for the page: `lambda-dpo serve` on a port of its own, asked directly where a test needs its word."""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[3]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PROGRAM = Path(os.environ.get("LAMBDA_DPO_PROGRAM", BUILT / "lambda-dpo"))
#: Much longer than a start takes on a loaded machine.
START_SECS = 60


class Server:
    """A running server; `url` is its address without a slash at the end."""

    def __init__(self, log, *arguments):
        self.log, self.arguments = log, arguments
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        for name in ["LAMBDA_DPO_PLUGIN", "LAMBDA_DPO_API_KEY"]:
            environment.pop(name, None)
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", "--device", "cpu", "--port", "0", *arguments], stderr=file, env=environment
            )
        self.url = self._address()

    def _address(self):
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"listening on (http://\S+)", self.log.read_text()):
                return found[1].rstrip("/")
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"The server did not start: {self.log.read_text()}")

    def ask(self, path, body=None):
        """Returns the answer to a request, JSON or text."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read().decode()
            return json.loads(text) if "json" in response.headers["Content-Type"] else text

    def metric(self, name):
        """Returns a counter or gauge of /metrics."""
        return float(re.search(rf"^{name} (\S+)$", self.ask("/metrics"), re.MULTILINE)[1])

    def wait_until_idle(self, secs=10):
        """Waits until no text is being generated or waiting."""
        deadline = time.monotonic() + secs
        while self.metric("lambda_dpo_batch_size") + self.metric("lambda_dpo_queue_length") > 0:
            assert time.monotonic() < deadline, self.ask("/metrics")
            time.sleep(0.02)

    def stop(self):
        """Ends the server as its users do; it must exit with 0."""
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(START_SECS) == 0, self.log.read_text()
