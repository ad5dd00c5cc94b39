"""Ports for servers that start later, or that start again."""

import random
import socket

from resonant.local.server import is_free

# Below the ports of outgoing connections, and apart from those that commands of the tests choose for their own servers.
_PORTS = range(11_000, 20_000)
_kept: list[socket.socket] = []


def free_port() -> int:
    """Return a port of the loopback interface that no other test uses before this process ends.

    The UDP port with the same number marks it as taken, so that no process that runs tests chooses it too.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _kept.append(mark)
        if is_free(port):
            return port
    raise AssertionError("every port is taken")


def listens(port: int) -> bool:
    """Return whether a server listens on this port of the loopback interface.

    Unlike ``is_free``, it never has the port itself, so it may look while the server starts.
    """
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
