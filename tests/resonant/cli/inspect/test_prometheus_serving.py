"""``resonant prometheus --serve`` answers scrapes until Ctrl-C."""

import http.client
import signal
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from resonant.metrics.scraping import scrape_server
from resonant.settings import load_settings
from support.ports import free_port
from support.prometheus_text import samples

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def scrape(port, path="/metrics", **headers):
    """Return the status, the content type and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


@pytest.fixture
def serve():
    """A function that starts the server of the command in a thread, and returns its port."""
    servers = []

    def start() -> int:
        servers.append(scrape_server(load_settings(), 0))
        threading.Thread(target=servers[-1].serve_forever).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_each_scrape_reads_the_store_anew(serve, busy):
    port = serve()
    status, kind, body = scrape(port)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert samples(body)["resonant_events_accepted_total", "crm"] == 1
    busy.accept("evt_9", endpoint="crm")
    status, kind, body = scrape(port, Accept=OPENMETRICS)
    assert status == 200
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert samples(body, parse_openmetrics)["resonant_events_accepted_total", "crm"] == 2


def test_an_unavailable_store_is_503_with_one_line_until_it_is_available(serve, busy, tmp_path):
    store, port = tmp_path / "resonant.db", serve()
    store.rename(tmp_path / "aside")
    store.mkdir()
    status, _, body = scrape(port)
    assert (status, body.count("\n")) == (503, 1)
    assert "resonant.db" in body
    store.rmdir()
    (tmp_path / "aside").rename(store)
    assert scrape(port)[0] == 200


@pytest.mark.parametrize("scraped_before", [True, False])
def test_a_missing_store_is_503_and_no_empty_one_is_created(serve, busy, tmp_path, scraped_before):
    store, aside, port = tmp_path / "resonant.db", tmp_path / "aside", serve()
    if scraped_before:
        assert scrape(port)[0] == 200
    aside.mkdir()
    for path in tmp_path.glob("resonant.db*"):
        path.rename(aside / path.name)
    for _ in range(2):
        status, _, body = scrape(port)
        assert status == 503
        assert body == (
            f"sqlite:///{store}: the file was removed: restore it, or restart `resonant prometheus --serve` "
            "to begin with an empty store\n"
        )
    assert not store.exists()
    for path in aside.iterdir():
        path.rename(tmp_path / path.name)
    status, _, body = scrape(port)
    assert status == 200
    assert samples(body)["resonant_events_accepted_total", "billing"] == 3


def test_serving_creates_a_store_and_reports_no_removal_if_it_cannot_be_entered(serve, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{folder}/resonant.db")
    port = serve()
    assert [scrape(port)[0] for _ in range(2)] == [200, 200]
    folder.rename(tmp_path / "aside")
    folder.symlink_to(folder)  # also root cannot enter it
    status, _, body = scrape(port)
    assert status == 503
    assert "removed" not in body


def test_a_url_that_names_no_store_is_one_line_before_anything_is_served(resonant, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", "mysql://somewhere/x")
    answer = resonant("prometheus", "--serve", str(free_port()), code=1)
    assert answer.err.startswith("resonant: RESONANT_DATABASE_URL must be ")


def test_the_command_answers_other_paths_with_404_keeps_its_port_and_ends_in_silence(resonant):
    port = free_port()
    with resonant.start("prometheus", "--serve", str(port)) as server:
        try:
            assert server.stderr.readline() == f"serving http://127.0.0.1:{port}/metrics; Ctrl-C stops it\n"
            assert (scrape(port, "/admin")[0], scrape(port, "/")[0]) == (404, 200)
            refused = resonant("prometheus", "--serve", str(port), code=1)
            assert refused.err == f"resonant: --serve {port}: Address already in use\n"
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 0
            assert (server.stdout.read(), server.stderr.read()) == ("", "")
        finally:
            server.kill()
