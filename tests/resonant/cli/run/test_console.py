"""``resonant console`` in a process of its own: how it starts, what it survives, and how it ends."""

import httpx
import pytest

from support.serving import add_endpoints, serving
from support.waiting import PATIENCE_SECONDS, wait_until

HTML = {"accept": "text/html"}


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    add_endpoints(url, "shop")
    return url


def console(url, folder, *options, **variables):
    return serving(url, folder, *options, command="console", ready="static/console.css", **variables)


def get(server, path="/", method="GET", **options):
    options = {"headers": HTML, "trust_env": False, "timeout": PATIENCE_SECONDS} | options
    return httpx.request(method, f"{server.url}{path}", **options)


def test_it_names_its_address_and_store_answers_pages_and_ends_with_exit_code_0(url, tmp_path, resonant):
    with console(url, tmp_path) as server:
        said = server.log.read_text()
        assert f"console    {server.url}\n" in said
        assert "store.db" in said
        assert "every user of this machine" in said
        assert "<h1>" in get(server).text
        assert get(server, headers={"accept": "application/json"}).json()["accepted"] == 0
        assert get(server, method="HEAD").content == b""
        assert get(server, f"/?x={'y' * 60_000}").status_code == 431
        line = resonant.refused("console", "--port", str(server.port))
        assert line.startswith(f"cannot listen on 127.0.0.1 port {server.port}: Address already in use")
        assert server.stop() == 0
        assert server.log.read_text() == said, "it ends without a word"


def test_a_missing_store_and_a_malformed_name_are_one_line(resonant, monkeypatch, tmp_path):
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{tmp_path}/missing.db")
    assert str(tmp_path / "missing.db") in resonant.refused("console", "--port", "0")
    said = resonant.refused("console", "--port", "0", "--allow-host", "a b", code=2)
    assert said == "--allow-host 'a b' is not the name of a host, such as console.example.com"


@pytest.mark.parametrize("name", ["PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"])
@pytest.mark.parametrize("value", [":", "resonant:"])
def test_an_empty_password_is_refused(resonant, monkeypatch, url, name, value):
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv(name, value)
    said = resonant.refused("console", "--port", "0")
    assert said == f"{name} has no password: set it to USER:PASSWORD, or unset it"


def test_off_loopback_it_needs_a_password(resonant, monkeypatch, url, tmp_path):
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    assert "--auth makes one" in resonant.refused("console", "--host", "0.0.0.0", "--port", "0")

    with console(url, tmp_path, "--host", "0.0.0.0", "--auth") as server:
        password = (tmp_path / "resonant" / "prefect-password").read_text().partition(":")[2]
        assert password not in server.log.read_text()
        assert get(server, headers={}).status_code == 401
        assert get(server).headers["location"] == "/login"
        assert get(server, auth=("Ada", password)).status_code == 200


@pytest.mark.slow
def test_pages_say_that_postgresql_is_away_and_recover(postgresql, postgresql_url, tmp_path):
    add_endpoints(postgresql_url, "shop")
    with console(postgresql_url, tmp_path) as server:
        assert get(server).status_code == 200
        with postgresql.stopped():
            away = get(server)
            assert away.status_code == 503
            assert "the store does not answer" in away.text
        wait_until(lambda: get(server).status_code == 200)
        assert "Traceback" not in server.log.read_text()
