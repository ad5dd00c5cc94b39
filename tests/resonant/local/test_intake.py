"""The HTTP intake of `resonant up` answers until it is ended, and its log says why it does not start."""

import psutil
import pytest

from resonant.errors import ServerError
from resonant.local.health import is_healthy
from resonant.local.intake import Intake
from resonant.local.parts import kept_parts
from resonant.local.password import OF_CLIENT, OF_SERVER
from support.ports import free_port


def test_the_intake_runs_without_the_password_of_prefects_server_until_it_is_ended(
    tmp_path, sqlite_url, monkeypatch
):
    for name in (OF_SERVER, OF_CLIENT):
        monkeypatch.setenv(name, "resonant:s3cret")
    port = free_port()
    with kept_parts() as parts:
        intake = Intake(tmp_path, {"RESONANT_DATABASE_URL": sqlite_url}, port)
        parts.start(intake)
        parts.wait(intake)
        assert f":{port}/events" in intake.log.read_text()
        family = psutil.Process(intake.supervisor.pid).children(recursive=True)
        environments = [each.environ() for each in family]
    assert [each["RESONANT_DATABASE_URL"] for each in environments] == [sqlite_url]
    assert "s3cret" not in str(environments)
    assert intake.supervisor.poll() is not None
    assert not is_healthy(f"http://127.0.0.1:{port}", "healthz")


def test_an_intake_that_cannot_start_gives_the_error_of_its_log(tmp_path):
    variables = {"RESONANT_DATABASE_URL": "mysql://store"}
    with kept_parts() as parts:
        intake = Intake(tmp_path, variables, free_port())
        parts.start(intake)
        with pytest.raises(ServerError, match="RESONANT_DATABASE_URL must be"):
            parts.wait(intake)
    assert intake.log == tmp_path / "serve.log"
