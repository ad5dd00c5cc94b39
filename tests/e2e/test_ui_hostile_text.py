"""Untrusted text in both of Prefect's UIs, in a real browser: shown literally, without images or links."""

import asyncio
import json

import pytest
from prefect import tags
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dead_letters import collect_dead_letters, purge_dead_letters, replay_dead_letters
from flows.emit import emit_events
from flows.metrics import export_metrics
from resonant.blocks import WebhookEndpoint
from resonant.local.server import send_events
from support.browser import VIOLATIONS, blocked
from support.prefect import forget_server, patient_client
from support.sites import site
from support.waiting import wait_until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.program,
    pytest.mark.shared_up,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("chromium"),
]

UIS = ["", "/v2"]
HIDDEN = "\u202e\u2066\u200e\u200f\u061c\ufeff\u00ad\U000e0041\u200b"


TAG = "hostile"
TAGGED = {"tags": {"all_": [TAG]}}
SORTS = {"artifacts": "CREATED_DESC", "flow_runs": "START_TIME_DESC", "task_runs": "END_TIME_DESC"}


@pytest.fixture(scope="module")
def server(ensure_up):
    """The API of ``up``; the flows run in this process, with a store of their own, and their runs have a tag."""
    return f"{ensure_up().url}/api"


@pytest.fixture(scope="module")
def trap():
    """The site that the hostile texts name."""
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def hostile(server, trap, tmp_path_factory):
    """Run each flow on hostile text, so that it writes its artifact; return the URL in the texts."""
    home, trap = tmp_path_factory.mktemp("hostile"), trap.url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESONANT_HOME", str(home))
        patch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{home}/store.db")
        image = f"![i]({trap}/x.png)"
        types = [f"{image} <img src={trap}/y.png> | `a`|`b` {trap}/z {HIDDEN}", f"www.trap.example|\\|{trap}"]
        events = [
            {"id": f"![i]({trap}/{n}.png)", "type": kind, "source": kind, "data": n}
            for n, kind in enumerate(types)
        ]
        excerpt = f"{image} <img src={trap}/e.png> {trap}/e www.trap.example ``{HIDDEN}".encode()

        async def run_everything(url: str) -> None:
            await WebhookEndpoint(url=url, allow_private=True).asave("hostile")
            await emit_events(events, endpoint="hostile", max_attempts=1)
            await collect_dead_letters()
            await export_metrics()
            await purge_dead_letters(
                older_than_days=0, archive=str(home / f"![i]({HIDDEN}).gz"), dry_run=True
            )
            await replay_dead_letters(ids=[events[0]["id"]], include_permanent=True, return_state=True)
            with pytest.raises(Exception, match="no retry policy is named"):
                await replay_dead_letters(ids=["a"], policy=f"{image} {HIDDEN}")

        send_events(server)  # Prefect's client goes on with the server that an earlier test used.
        with (
            site(excerpt, status=400, content_type="text/plain; charset=utf-8") as receiver,
            temporary_settings({PREFECT_API_URL: server}),
            tags(TAG),
        ):
            asyncio.run(run_everything(receiver.url))
            forget_server(server)
        yield trap


def tagged(server: str, kind: str) -> list[dict]:
    """Return the runs, or the artifacts of the runs, that this test has made."""
    of = "task_runs" if kind == "task_runs" else "flow_runs"
    with patient_client(server) as client:
        return client.post(f"/{kind}/filter", json={of: TAGGED, "sort": SORTS[kind]}).json()


def is_hostile(server: str, hostile: str, record: dict) -> bool:
    """Whether an artifact, or a run with its logs, has hostile text."""
    of_run = {"logs": {"flow_run_id": {"any_": [record["id"]]}}}
    with patient_client(server) as client:
        found = json.dumps([record, client.post("/logs/filter", json=of_run).json()])
    return hostile.rpartition(":")[2] in found or "202e" in found


def pages(server: str, hostile: str) -> dict[str, str]:
    """Return the path of each page with hostile text, and a text to wait for."""
    artifacts, flow_runs, task_runs = (
        [each for each in tagged(server, kind) if is_hostile(server, hostile, each)]
        for kind in ("artifacts", "flow_runs", "task_runs")
    )
    assert {each["key"] for each in tagged(server, "artifacts")} == {
        "dead-letter-triage", "held-endpoints", "metrics", "purge-report", "replay-progress",
    }  # fmt: skip
    assert {each["key"] for each in artifacts} == {"dead-letter-triage", "metrics"}
    assert len(flow_runs) == 4  # of emit, of purge, and of both replays
    return (
        {f"/artifacts/artifact/{each['id']}": each["key"] for each in artifacts}
        | {f"/artifacts/key/{each['key']}": each["key"] for each in artifacts[:1]}
        | {f"/runs/flow-run/{each['id']}": each["name"] for each in flow_runs}
        | {f"/runs/task-run/{each['id']}": each["name"] for each in task_runs[:1]}
        | {"/artifacts": "dead-letter-triage", "/runs": "Runs"}
    )


@pytest.mark.parametrize("ui", UIS, ids=["v1", "v2"])
def test_hostile_text_is_shown_and_loads_nothing(server, hostile, trap, page, ui):
    page.set_viewport_size({"width": 1400, "height": 1100})
    look(server, hostile, page, ui)
    assert trap.requests == []


def settled_text(page) -> str:
    """Return the text of a page once it has loaded, and writes no more."""
    page.wait_for_load_state("networkidle")
    shown = ""

    def is_settled() -> bool:
        nonlocal shown
        before, shown = shown, page.locator("body").inner_text()
        return shown == before

    wait_until(is_settled, every=0.25)
    return shown


def look(server, hostile, page, ui):
    root = server.removesuffix("/api")
    answered, errors = [], []
    page.on("response", lambda response: answered.append(response.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(VIOLATIONS)
    shown = ""
    for path, name in pages(server, hostile).items():
        page.goto(f"{root}{ui}{path}")
        page.get_by_text(name).first.wait_for()
        text = settled_text(page)
        # The pages load all that they need, such as the graph of a run.
        assert (blocked(page), errors) == ([], []), path
        assert not any(character in text for character in HIDDEN), path
        # The page must not even try to load a resource that the content security policy blocks.
        assert page.locator(f"img[src*='{hostile}']").count() == 0, path
        # In a run's log, Prefect turns every URL into a link.
        if not path.startswith("/runs/"):
            links = page.locator(f"a[href*='{hostile}'], a[href*='trap.example']")
            assert links.count() == 0, path
        shown += text
    assert f"![i]({hostile}/1.png)" in shown
    assert f"www.trap.example\\x7c\\\\x7c{hostile}" in shown
    assert "\\u202e\\u2066" in shown
    assert [url for url in answered if not url.startswith((root, "data:", "blob:"))] == []


def test_the_names_of_runs_hide_nothing(server, hostile):
    def recorded() -> list[str]:
        found = [each["name"] for kind in ("flow_runs", "task_runs") for each in tagged(server, kind)]
        return found if any(hostile in name for name in found) else []

    # The server records task runs some seconds after they ended.
    found = wait_until(recorded, every=0.5)
    assert not any(character in name for name in found for character in HIDDEN)
