"""Web sites that answer every request in the same way, and record the requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """A web site of somebody else, and the requests to it: paths and bodies."""

    url: str
    requests: list[tuple[str, bytes]] = field(default_factory=list)


@contextmanager
def site(
    body: bytes = b"", *, status: int = 200, content_type: str = "text/html; charset=utf-8"
) -> Iterator[Site]:
    """Answer every request in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.rfile.read(int(self.headers.get("content-length", 0)))
            found.requests.append((self.path, given))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Site(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()
