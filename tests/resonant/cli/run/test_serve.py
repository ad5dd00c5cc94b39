"""``serve`` before it listens, and its file of sources."""

import signal

import httpx

from support.serving import serving
from support.sources import declare, row, webhook
from support.waiting import PATIENCE_SECONDS, wait_until


def test_a_uvicorn_that_lacks_a_name_is_refused_before_the_store_is_opened(resonant, monkeypatch):
    monkeypatch.setattr("resonant.intake.serving.compatibility.NAMES", {("uvicorn", "Gone"): ("name",)})
    answer = resonant("serve", code=1)
    assert answer.err.startswith("resonant: uvicorn ")
    assert "has no Gone.name" in answer.err


def test_a_mistake_in_the_file_of_sources_is_one_line_and_exit_code_2(resonant, tmp_path, opened):
    file = declare(tmp_path, row("github", verfy="x"))
    said = resonant.refused("serve", "--port", "0", "--sources", str(file), code=2)
    assert said == f"{file}: source 'github': unknown setting 'verfy': did you mean verify?"
    missing = tmp_path / "missing.yaml"
    said = resonant.refused("serve", "--port", "0", "--sources", str(missing), code=2)
    assert said == f"{missing}: No such file or directory"
    assert opened == []


def test_a_source_without_a_check_is_refused_beyond_loopback(resonant, tmp_path):
    file = declare(tmp_path, row("none", id="{data/id}"))
    said = resonant.refused("serve", "--port", "0", "--host", "0.0.0.0", "--sources", str(file), code=2)
    assert said == "source 'none': verify: none works on 127.0.0.1 only"


def ask(server, method, path, sent=None):
    """Send a request, with the body and the headers of a webhook."""
    given = {"content": sent.body, "headers": dict(sent.headers)} if sent else {}
    return httpx.request(method, server.url + path, trust_env=False, timeout=PATIENCE_SECONDS, **given)


def test_sources_are_listed_served_and_read_again_on_sighup(url, tmp_path):
    file = declare(tmp_path, row("github"), row("none", id="{data/id}"))

    def status(name, sent):
        return ask(server, "POST", f"/sources/{name}", sent).status_code

    def log():
        return server.log.read_text()

    with serving(url, tmp_path, "--sources", str(file)) as server:
        assert (
            f"sources        {server.url}/sources/github\n               {server.url}/sources/none\n" in log()
        )
        assert "source 'none' accepts requests of every program on this machine" in log()
        assert status("github", webhook("github")) == 202
        assert status("github", webhook("github", secret="new")) == 401

        file.write_text("sources: [{name: github}]")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "kept the old sources" in log())
        assert f"{file}: source 'github': verify: " in log()
        assert status("github", webhook("github", event_id="2")) == 202

        declare(tmp_path, row("github", secret=["new"]), row("shopify"))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "read again: 2 sources" in log())
        assert status("github", webhook("github", event_id="3")) == 401
        assert status("github", webhook("github", event_id="3", secret="new")) == 202
        assert status("shopify", webhook("shopify")) == 202
        assert status("none", webhook("none")) == 404
        assert server.stop() == 0
    assert "secret of a test" not in log()


def test_sources_alone_need_no_token_beyond_loopback(url, tmp_path):
    file = declare(tmp_path, row("github"))
    with serving(url, tmp_path, "--host", "0.0.0.0", "--sources", str(file)) as server:
        sent = webhook("github")
        assert ask(server, "POST", "/sources/github", sent).status_code == 202
        assert ask(server, "POST", "/events").status_code == 401
        assert ask(server, "GET", "/metrics").status_code == 401
