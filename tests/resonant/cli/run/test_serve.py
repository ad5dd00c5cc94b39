"""The errors of `resonant serve` before it listens."""

import pytest


@pytest.mark.parametrize("origin", ["https://events.example.com", "events.example.com:443", "*", ""])
def test_an_allowed_origin_must_be_the_name_of_a_host(resonant, origin):
    refused = resonant("serve", "--port", "0", "--allow-origin", origin, code=2)
    assert refused.err.count("\n") == 1
    assert f"--allow-origin {origin!r} is not the name of a host" in refused.err
