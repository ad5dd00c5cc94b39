"""The console of `resonant up` requires the password of Prefect's server, and finds a free port."""

import socket

import httpx
import pytest

from resonant.local import console
from resonant.local.parts import kept_parts
from resonant.local.password import OF_CLIENT, OF_SERVER
from support import patient
from support.ports import free_port
from support.serving import add_endpoints


@pytest.mark.parametrize("password", ["", "resonant:s3cret"])
def test_it_runs_with_the_password_of_prefects_server_until_it_is_ended(tmp_path, monkeypatch, password):
    for name in (OF_SERVER, OF_CLIENT):
        monkeypatch.setenv(name, password)
    url = f"sqlite:///{tmp_path}/store.db"
    add_endpoints(url, "shop")
    with kept_parts() as parts:
        part = console.ConsolePart(tmp_path, {"RESONANT_DATABASE_URL": url}, free_port())
        parts.start(part)
        parts.wait(part)
        assert patient.get(part.url).status_code == (401 if password else 200)
        assert patient.get(part.url, auth=("Ada", "s3cret")).status_code == 200
        assert "s3cret" not in (tmp_path / "console.log").read_text()
    assert part.supervisor.poll() is not None
    with pytest.raises(httpx.ConnectError):
        patient.get(part.url)


def test_if_its_port_is_taken_it_says_which_other_it_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "PORT", port := free_port())
    with socket.create_server(("127.0.0.1", port)):
        url = console.ConsolePart(tmp_path, {}, None).url
    assert (
        capsys.readouterr().err
        == f"port {port} is in use: the console listens on port {url.rpartition(':')[2]}\n"
    )
    assert url != f"http://127.0.0.1:{port}"
    assert console.ConsolePart(tmp_path, {}, None).url == f"http://127.0.0.1:{port}"
