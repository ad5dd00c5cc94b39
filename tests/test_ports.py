"""No two tests choose the same port, in whichever process they run."""

import pytest

from support import ports


def test_a_port_is_given_once_also_before_a_server_listens_on_it(monkeypatch):
    monkeypatch.setattr(ports, "_PORTS", [ports.free_port()])
    with pytest.raises(AssertionError, match="every port is taken"):
        ports.free_port()
