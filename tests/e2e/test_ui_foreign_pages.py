"""Foreign web pages in a real browser: they cannot read, change or listen to anything of a Prefect server on this machine."""

import pytest

from support.browser import VIOLATIONS, blocked
from support.prefect import patient_client
from support.sites import site

pytestmark = [
    pytest.mark.engine,
    pytest.mark.program,
    pytest.mark.shared_up,
    pytest.mark.slow,
    pytest.mark.usefixtures("chromium"),
]


@pytest.fixture
def unlocked(up):
    """The port of a server without a password."""
    return up.port


@pytest.fixture
def foreign_page():
    """The address of a foreign web page."""
    with site(b"<title>kittens</title>") as found:
        yield f"{found.url}/"


SECRETS = "/block_documents/filter"
# The actions of any page at an address that its visitor can reach: read secrets, change something without seeing the
# answer (a body without a type needs no permission), listen.
ATTACKS = """async api => {
    const body = JSON.stringify({name: "planted"});
    const asked = {method: "POST", headers: {"content-type": "application/json"}, body: '{"include_secrets": true}'};
    const attacks = {
        read: async () => (await fetch(api + "/block_documents/filter", asked)).text(),
        readWithoutLeave: async () => (await fetch(api + "/block_documents/filter", {method: "POST"})).text(),
        listen: () => new Promise((resolve, reject) => {
            const socket = new WebSocket(api.replace("http", "ws") + "/events/out", ["prefect"]);
            socket.onopen = () => resolve("open");
            socket.onerror = () => reject(new Error("closed"));
        }),
        write: async () => (await fetch(api + "/flows/", {method: "POST", mode: "no-cors", body: new Blob([body])})).type,
    };
    const came = {};
    for (const [name, attack] of Object.entries(attacks)) {
        try { came[name] = await attack(); } catch { came[name] = "refused"; }
    }
    return came;
}"""


def test_a_foreign_web_page_neither_reads_nor_changes_nor_listens_to_anything(unlocked, page, foreign_page):
    api = f"http://127.0.0.1:{unlocked}/api"
    page.goto(foreign_page)

    came = page.evaluate(ATTACKS, api)

    # The page cannot tell whether a request that it sent without permission was accepted.
    with patient_client(api) as client:
        flows = client.post("/flows/filter", json={}).json()
    came["write"] = [flow["name"] for flow in flows if flow["name"] == "planted"]
    assert came == {"read": "refused", "readWithoutLeave": "refused", "listen": "refused", "write": []}


def test_a_foreign_page_cannot_load_or_frame_anything(unlocked, page, foreign_page):
    page.goto(foreign_page)
    server = f"http://127.0.0.1:{unlocked}"
    for address, load in (
        (f"{server}/api/health", "url => { new Image().src = url }"),
        (f"{server}/api/ready", "url => { fetch(url, {mode: 'no-cors'}) }"),
        (
            f"{server}/",
            "url => { document.body.append(Object.assign(document.createElement('iframe'), {src: url})) }",
        ),
    ):
        with page.expect_response(address) as answer:
            page.evaluate(load, address)
        assert answer.value.status == 403, address


def test_a_link_elsewhere_opens_the_ui_but_not_the_api(unlocked, page, foreign_page):
    server = f"http://127.0.0.1:{unlocked}"
    for address, expected in ((f"{server}/runs", 200), (f"{server}/api/health", 403)):
        tab = page.context.new_page()  # the last one may still be loading
        tab.goto(foreign_page)
        with tab.expect_response(address) as answer:
            tab.evaluate("url => { location.href = url }", address)
        assert answer.value.status == expected, address


def test_a_foreign_name_that_resolves_to_this_machine_is_refused(unlocked, page):
    """DNS rebinding: for the browser, page and API are of one origin then."""
    answer = page.goto(f"http://rebound.example:{unlocked}/api{SECRETS}")
    assert answer.status == 403


def test_no_page_of_the_server_names_a_script_of_another_host(unlocked):
    with patient_client(f"http://127.0.0.1:{unlocked}", event_hooks={}) as client:
        for path in ("/docs", "/redoc", "/api/docs", "/api/redoc"):
            assert client.get(path).status_code == 404, path
        assert client.get("/api/openapi.json").status_code == 200


def test_a_script_in_a_page_of_the_server_does_not_run(unlocked, page):
    page.goto(f"http://127.0.0.1:{unlocked}/")
    page.evaluate("""() => {
        const inline = document.createElement("script");
        inline.textContent = "window.has_run = true";
        document.body.append(inline);
    }""")
    assert page.evaluate("window.has_run") is None


@pytest.mark.parametrize("ui", ["", "/v2"], ids=["v1", "v2"])
def test_the_policy_blocks_nothing_that_the_ui_needs(unlocked, page, ui):
    page.add_init_script(VIOLATIONS)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    # test_ui_hostile_text.py has the pages of runs and artifacts.
    for path in ("/flows", "/deployments", "/blocks/catalog", "/automations", "/settings"):
        page.goto(f"http://127.0.0.1:{unlocked}{ui}{path}")
        page.get_by_text("Automations").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert errors == [], path
        assert blocked(page) == [], path


def test_the_ui_also_works_at_localhost(unlocked, page):
    def is_read(response):
        return (
            response.url.startswith(f"http://127.0.0.1:{unlocked}/api/") and response.request.method == "POST"
        )

    with page.expect_response(is_read) as read:
        page.goto(f"http://localhost:{unlocked}/")
    assert read.value.ok
    assert read.value.json() is not None
