"""A Hugging Face hub on this machine with one model, as slow as is needed to kill a download inside a file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep

MODEL = "torture/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CHUNK_BYTES = 4096


class Hub(ThreadingHTTPServer):
    """Serves the files of a model folder."""

    daemon_threads = True

    def __init__(self, model: Path, seconds_per_file: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
        self.seconds_per_file = seconds_per_file

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: a client that is killed is what it is there for."""

    @property
    def endpoint(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith(f"api/models/{MODEL}"):
            names = [{"rfilename": name} for name in self.server.files]
            self._send(200, json.dumps({"sha": COMMIT, "siblings": names}).encode())
            return
        name = path.rsplit("/", 1)[-1]
        content = self.server.files.get(name) if path.startswith(f"{MODEL}/resolve/") else None
        if content is None:
            self._send(404, b"{}")
            return
        self._send_part(content)

    def _send_part(self, content: bytes) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        if start >= len(content):
            self._send(416, b"")
            return
        part = content[start:end]
        headers = {
            "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}",
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        self._send(206, part, headers, slowly=len(part) > 1)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, slowly: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        num_chunks = -(-len(content) // _CHUNK_BYTES)
        pause = self.server.seconds_per_file / num_chunks if slowly and num_chunks else 0.0
        try:
            for at in range(0, len(content), _CHUNK_BYTES):
                self.wfile.write(content[at : at + _CHUNK_BYTES])
                if pause:
                    sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # The other side was killed.

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@contextmanager
def serve(model: Path, seconds_per_file: float = 0.0) -> Iterator[Hub]:
    """Serves a model folder until the end of the block."""
    hub = Hub(model, seconds_per_file)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
