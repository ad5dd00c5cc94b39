"""Addresses where no server accepts connections."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# How long a connection to loopback may take before the queue counts as full.
_FULL_AFTER_SECONDS = 0.2


@contextmanager
def nobody_listening() -> Iterator[str]:
    """Yield a URL that refuses every connection; its port is reserved, so that no other process takes it."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield _url(reserved)


@contextmanager
def full_accept_queue() -> Iterator[str]:
    """Yield the URL of a listener with a full accept queue: Linux does not answer new connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(_FULL_AFTER_SECONDS)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                break
        yield _url(listener)


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
