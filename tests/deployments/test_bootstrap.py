"""``python -m deployments.bootstrap`` loses its server: it prints one line, and no traceback."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from support.machine import Machine
from support.pages import PROJECT

pytestmark = pytest.mark.engine

QUICK = {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # instead of 5, which take a minute


@pytest.fixture
def mortal(prefect_api):
    """Start a server that forwards this many requests to a real one and then ends; return its API URL."""
    servers = []

    def start(requests: int) -> str:
        left = threading.Semaphore(requests)

        class Forward(BaseHTTPRequestHandler):
            def answer(self):
                if not left.acquire(blocking=False):
                    self.server.socket.close()  # nobody listens from now on
                    self.connection.close()
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                url = f"{prefect_api.removesuffix('/api')}{self.path}"
                kept = {"content-type": self.headers.get("content-type", "application/json")}
                got = httpx.request(self.command, url, content=body, headers=kept, timeout=60)
                self.send_response(got.status_code)
                self.send_header("content-type", got.headers.get("content-type", "application/json"))
                self.send_header("content-length", str(len(got.content)))
                self.end_headers()
                self.wfile.write(got.content)

            def __getattr__(self, name):
                if name.startswith("do_"):
                    return self.answer
                raise AttributeError(name)

            def log_message(self, *_arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/api"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize("requests", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_lost_server_ends_the_bootstrap_with_one_line(requests, mortal, tmp_path):
    url = mortal(requests)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap"],
        cwd=PROJECT,
        env=Machine(tmp_path, url, QUICK).environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"the Prefect server at {url} became unreachable: the setup is incomplete; start the server, and run the bootstrap again\n"
    )
