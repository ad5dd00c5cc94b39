"""``python -m deployments.bootstrap`` loses its server: it prints one line, and no traceback."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from support.bootstrapping import run_bootstrap
from support.machine import Machine
from support.pages import PROJECT

pytestmark = pytest.mark.engine

QUICK = {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # instead of 5, which take a minute


@pytest.fixture
def mortal(prefect_api):
    """Start a server that forwards this many requests to a real one and then ends; return its API URL."""
    servers = []
    real = httpx.Client(timeout=60)

    def start(requests: int) -> str:
        left = threading.Semaphore(requests)

        class Forward(BaseHTTPRequestHandler):
            def answer(self):
                if not left.acquire(blocking=False):
                    self.server.socket.close()  # nobody listens from now on
                    self.server.shutdown()  # its loop would keep trying to accept on the closed socket
                    self.connection.close()
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                url = f"{prefect_api.removesuffix('/api')}{self.path}"
                kept = {"content-type": self.headers.get("content-type", "application/json")}
                got = real.request(self.command, url, content=body, headers=kept)
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
    real.close()


def lost_server_message(url: str) -> str:
    return f"the Prefect server at {url} became unreachable: the setup is incomplete; start the server, and run the bootstrap again\n"


def test_a_server_that_is_lost_at_once_ends_the_bootstrap_with_one_line(mortal, tmp_path):
    url = mortal(1)
    done = run_bootstrap(Machine(tmp_path, url, QUICK))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", lost_server_message(url))


@pytest.mark.slow
def test_a_server_that_is_lost_later_ends_the_process_with_one_line(mortal, tmp_path):
    url = mortal(40)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap"],
        cwd=PROJECT,
        env=Machine(tmp_path, url, QUICK).environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", lost_server_message(url))
