"""The HTTP intake of `resonant up` runs during the block, and its log says why it does not start."""

import pytest

from resonant.errors import ServerError
from resonant.local.health import is_healthy
from resonant.local.intake import kept_intake
from resonant.local.server import free_port


def test_the_intake_runs_during_the_block(tmp_path, sqlite_url):
    port = free_port()
    with kept_intake(tmp_path, {"RESONANT_DATABASE_URL": sqlite_url}, port) as part:
        assert part.supervisor.poll() is None
        assert f":{port}/events" in part.log.read_text()
    assert part.supervisor.poll() is not None
    assert not is_healthy(f"http://127.0.0.1:{port}", "healthz")


def test_an_intake_that_cannot_start_is_one_line_with_its_log(tmp_path):
    variables = {"RESONANT_DATABASE_URL": "mysql://store"}
    with pytest.raises(ServerError) as refused, kept_intake(tmp_path, variables, free_port()):
        pass
    log = tmp_path / "serve.log"
    assert str(refused.value) == f"the HTTP intake did not start: see {log}"
    assert "RESONANT_DATABASE_URL must be" in log.read_text()
