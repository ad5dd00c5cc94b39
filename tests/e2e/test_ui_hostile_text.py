"""Untrusted text in both of Prefect's UIs, in a real browser: shown literally, without images or links."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import sync_playwright
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import WebhookEndpoint
from flows.dead_letters import collect_dead_letters, purge_dead_letters, replay_dead_letters
from flows.emit import emit_events
from flows.metrics import export_metrics
from resonant.local.server import free_port, kept_server, send_events
from resonant.settings import Settings
from support.browser import VIOLATIONS
from support.prefect import patient_client
from support.programs import need
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

UIS = ["", "/v2"]
HIDDEN = "\u202e\u2066\u200e\u200f\u061c\ufeff\u00ad\U000e0041\u200b"


@contextmanager
def site(answer: bytes, asked: list[str]):
    """Serve this answer to every request, and record the requests."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(400)
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with its UI, started as ``resonant up`` does."""
    home = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        with kept_server(Settings(home=home / "resonant"), port=free_port(), ui=True) as server:
            yield server.api_url


@pytest.fixture(scope="module")
def asked():
    """The requests to the site that the hostile texts name."""
    return []


@pytest.fixture(scope="module")
def hostile(server, asked, tmp_path_factory):
    """Run each flow on hostile text, so that it writes its artifact; return the URL in the texts."""
    home = tmp_path_factory.mktemp("hostile")
    with site(b"", asked) as trap, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESONANT_HOME", str(home))
        patch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{home}/store.db")
        image = f"![i]({trap}/x.png)"
        types = [f"{image} <img src={trap}/y.png> | `a`|`b` {trap}/z {HIDDEN}", f"www.trap.example|\\|{trap}"]
        events = [
            {"id": f"![i]({trap}/{n}.png)", "type": kind, "source": "/s", "data": n}
            for n, kind in enumerate(types)
        ]
        excerpt = f"{image} <img src={trap}/e.png> {trap}/e www.trap.example ``{HIDDEN}".encode()

        async def run_everything(url: str) -> None:
            await WebhookEndpoint(url=url, allow_private=True).asave("hooks")
            await emit_events(events, endpoint="hooks", max_attempts=1)
            await collect_dead_letters()
            await export_metrics()
            await purge_dead_letters(
                older_than_days=0, archive=str(home / f"![i]({HIDDEN}).gz"), dry_run=True
            )
            await replay_dead_letters(ids=[events[0]["id"]], include_permanent=True, return_state=True)
            with pytest.raises(Exception, match="no retry policy is named"):
                await replay_dead_letters(ids=["a"], policy=f"{image} {HIDDEN}")

        send_events(server)  # Prefect's client goes on with the server that an earlier test used.
        with site(excerpt, []) as receiver, temporary_settings({PREFECT_API_URL: server}):
            asyncio.run(run_everything(receiver))
            send_events(server)
        yield trap


@pytest.fixture
def tab():
    executable = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1100})
        tab.set_default_timeout(60_000)
        yield tab
        browser.close()


def pages(server: str) -> dict[str, str]:
    """Return the path of each page with hostile text, and a text to wait for."""
    with patient_client(server) as client:
        artifacts = client.post("/artifacts/filter", json={}).json()
        flow_runs = client.post("/flow_runs/filter", json={}).json()
        task_runs = client.post("/task_runs/filter", json={}).json()
    assert {each["key"] for each in artifacts} == {
        "dead-letter-triage", "held-endpoints", "metrics", "purge-report", "replay-progress",
    }  # fmt: skip
    return (
        {f"/artifacts/artifact/{each['id']}": each["key"] for each in artifacts}
        | {f"/artifacts/key/{each['key']}": each["key"] for each in artifacts}
        | {f"/runs/flow-run/{each['id']}": each["name"] for each in flow_runs}
        | {f"/runs/task-run/{each['id']}": each["name"] for each in task_runs[:1]}
        | {"/artifacts": "dead-letter-triage", "/runs": flow_runs[0]["name"]}
    )


@pytest.mark.parametrize("ui", UIS, ids=["v1", "v2"])
def test_hostile_text_is_shown_and_loads_nothing(server, hostile, asked, tab, ui):
    root = server.removesuffix("/api")
    answered = []
    tab.on("response", lambda response: answered.append(response.url))
    tab.add_init_script(VIOLATIONS)
    shown = ""
    for path, name in pages(server).items():
        tab.goto(f"{root}{ui}{path}")
        tab.get_by_text(name).first.wait_for()
        tab.wait_for_timeout(1_000)
        # Everything that the pages need is allowed, such as the graph of a run; the analytics of the new UI are not.
        blocked = [each for each in tab.evaluate("violations") if not each.startswith("connect-src")]
        assert blocked == [], path
        text = tab.locator("body").inner_text()
        assert not any(character in text for character in HIDDEN), path
        # The page must not even try to load what the content security policy would block.
        assert tab.locator(f"img[src*='{hostile}']").count() == 0, path
        # In a run's log, Prefect turns every URL into a link.
        if not path.startswith("/runs/"):
            links = tab.locator(f"a[href*='{hostile}'], a[href*='trap.example']")
            assert links.count() == 0, path
        shown += text
    assert f"![i]({hostile}/1.png)" in shown
    assert f"www.trap.example\\x7c\\\\x7c{hostile}" in shown
    assert "\\u202e\\u2066" in shown
    assert asked == []
    assert [url for url in answered if not url.startswith((root, "data:", "blob:"))] == []


def test_the_names_of_runs_hide_nothing(server, hostile):
    async def names() -> list[str]:
        async with get_client() as client:
            return [each.name for each in (*await client.read_flow_runs(), *await client.read_task_runs())]

    def recorded() -> list[str]:
        found = asyncio.run(names())
        return found if any(hostile in name for name in found) else []

    # The server records task runs some seconds after they ended.
    with temporary_settings({PREFECT_API_URL: server}):
        found = wait_until(recorded, 60, every=0.5)
    assert not any(character in name for name in found for character in HIDDEN)
