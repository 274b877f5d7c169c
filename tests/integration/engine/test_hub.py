"""Models by their name on the hub, from a server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONTENT = os.urandom(300_000)
COMMIT = "a" * 40
FILES = ["README.md", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]


class Hub(BaseHTTPRequestHandler):
    """The few routes of the hub that finding and fetching one file takes."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/models/org/tiny":
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/org/tiny/resolve/"):
            self.answer(CONTENT, etag=hashlib.sha256(CONTENT).hexdigest())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, body: bytes, etag: str = "x") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PROGRAM = """
import sys
from aios_engine.errors import SetupError
from aios_engine.model_source import locate
shares = []
try:
    print(locate(sys.argv[1], None, shares.append), shares[-1] if shares else None)
except SetupError as error:
    print("refused:", error)
"""


def locate(model: str, endpoint: str, home: Path) -> str:
    # A process of its own: the hub's client reads its settings when it is imported.
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(60)
def test_a_model_is_fetched_by_its_name_and_found_again_without_the_hub(hub_url: str, tmp_path: Path) -> None:
    path, share = locate("org/tiny:q4_k_m", hub_url, tmp_path).rsplit(" ", 1)
    assert Path(path).name == "tiny-Q4_K_M.gguf"
    assert Path(path).read_bytes() == CONTENT
    assert float(share) == 1.0
    assert locate("org/tiny:q4_k_m", "http://127.0.0.1:9", tmp_path) == f"{path} None"


@pytest.mark.timeout(60)
def test_what_the_hub_does_not_have_is_told(hub_url: str, tmp_path: Path) -> None:
    assert "has no .gguf file for 'q2_k'" in locate("org/tiny:q2_k", hub_url, tmp_path)
    assert "the hub has no repository org/other" in locate("org/other", hub_url, tmp_path)


@pytest.mark.timeout(60)
def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    assert "cannot be fetched from the hub" in locate("org/tiny", "http://127.0.0.1:9", tmp_path)
