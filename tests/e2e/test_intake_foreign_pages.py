"""Foreign web pages in a real browser: they can neither send to nor read from a server that needs no token."""

import json

import pytest

from support.raw_http import event, intake_counts
from support.serving import add_endpoints, serving
from support.sites import site
from support.waiting import wait_until

pytestmark = [pytest.mark.program, pytest.mark.slow, pytest.mark.usefixtures("chromium")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    store_url = f"sqlite:///{folder}/resonant.db"
    add_endpoints(store_url, "orders")
    with serving(store_url, folder, "--no-auth") as server:
        yield server


# The ways in which a page can send a body, with and without permission.
SEND = """async ([url, body]) => {
    const kinds = ["text/plain", "application/x-www-form-urlencoded", "application/cloudevents+json", ""];
    const fetched = kinds.flatMap(kind => ["cors", "no-cors"].map(mode => () =>
        fetch(url, {method: "POST", mode, credentials: "include", body: new Blob([body], {type: kind})})));
    const form = (enctype) => () => new Promise(resolve => {
        const frame = Object.assign(document.createElement("iframe"), {name: enctype, onload: resolve});
        const input = Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ', "x": "', value: '"}'});
        const form = Object.assign(document.createElement("form"), {action: url, method: "POST", enctype, target: enctype});
        document.body.append(frame, form);
        form.append(input);
        form.submit();
    });
    const attacks = [
        ...fetched,
        () => navigator.sendBeacon(url, body),
        () => navigator.sendBeacon(url, new Blob([body], {type: "application/cloudevents+json"})),
        form("text/plain"), form("multipart/form-data"),
    ];
    const readable = [];
    for (const attack of attacks) {
        try {
            const answer = await Promise.race([attack(), new Promise(resolve => setTimeout(resolve, 10000))]);
            if (answer && answer.type !== "opaque" && answer.status) readable.push(answer.status);
        } catch { }
    }
    return {attacks: attacks.length, readable};
}"""
READ = """async urls => {
    const read = [];
    for (const url of urls) {
        try { read.push(await (await fetch(url)).text()); } catch { }
    }
    return read;
}"""
PATHS = ("/events/%2Fraw/known", "/metrics", "/openapi.json", "/docs", "/readyz")


def refusals(server, number):
    """Return the counts once this many requests were refused: a page does not wait for all of them."""
    found = intake_counts(server.port)
    return found if found["403"] >= number else None


def test_a_foreign_page_can_neither_send_an_event_nor_read_anything(server, page):
    url = f"{server.url}/events?endpoint=orders"
    with site(b"<title>kittens</title><body>") as foreign:
        page.goto(f"{foreign.url}/")
        sent = page.evaluate(SEND, [url, event("forged").decode()])
        read = page.evaluate(READ, [f"{server.url}{path}" for path in PATHS])

    found = wait_until(lambda: refusals(server, 8))
    assert sent == {"attacks": 12, "readable": []}
    assert read == []
    assert (found["stored"], found["refused"], found["202"]) == (0, 0, 0)


def test_a_foreign_name_that_resolves_to_this_machine_reads_and_sends_nothing(server, page):
    """DNS rebinding: for the browser, page and server are of one origin then."""
    rebound = f"http://rebound.example:{server.port}"
    statuses = [page.goto(f"{rebound}{path}").status for path in PATHS]
    sent = page.evaluate(
        "async ([url, body]) => (await fetch(url, {method: 'POST', body, headers: {'content-type': 'application/cloudevents+json'}})).status",
        [f"{rebound}/events?endpoint=orders", event("forged").decode()],
    )

    assert statuses == [403] * len(PATHS)
    assert sent == 403
    assert intake_counts(server.port)["stored"] == 0


def test_its_own_page_and_a_link_to_it_work(server, page):
    with site(b"<title>wiki</title><body>") as foreign:
        page.goto(f"{foreign.url}/")
        with page.expect_navigation():
            page.evaluate("url => { location.href = url }", f"{server.url}/openapi.json")

    document = json.loads(page.evaluate("async () => (await fetch('/openapi.json')).text()"))
    assert "/events" in document["paths"]
