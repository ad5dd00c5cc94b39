"""An operator's work in the Prefect UI, in a real browser: look at the triage and the charts, fill the form, replay, purge.

The screenshots are kept in ``build/screenshots``.
"""

import base64
import contextlib
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import trustme
from PIL import Image, ImageColor
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import expect

from flows.dead_letters import collect_dead_letters
from flows.metrics import export_metrics
from resonant import chart_style
from support.browser import running_chromium
from support.prefect import forget_server, patient_client, post_until
from support.waiting import wait_until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.program,
    pytest.mark.shared_up,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("chromium"),
]

_SHOWN_MILLISECONDS = 20_000
# Selector of the last element in the form of a replay.
_RATE = "text=Dead letters per second, after a slow start"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
LOGO = Path(__file__).parents[2] / "docs" / "images" / "logo.png"


@pytest.fixture(scope="module")
def window():
    """A real browser; until the last test of this file ends, it runs an event loop in the thread of the tests."""
    with running_chromium() as browser:
        context = browser.new_context(viewport={"width": 1400, "height": 1100})
        context.set_default_timeout(60_000)
        yield context


@pytest.fixture
def browser(window):
    """A tab of the browser."""
    with window.new_page() as page:
        yield page


@pytest.fixture(scope="module")
def beside():
    """A thread without an event loop."""
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.fixture
def user(up, up_machine, beside):
    """The machine of ``up``; its commands start event loops, so they run beside the one of the browser."""
    user = replace(up_machine, prefect_api=f"{up.url}/api")
    do = user.do
    user.do = lambda *arguments, **options: beside.submit(do, *arguments, **options).result()
    yield user
    beside.submit(forget_server, user.prefect_api).result()


@pytest.fixture
def ui(up):
    """The address of the UI of ``up``."""
    return up.url


def screenshot(page, name: str) -> None:
    """Keep a picture of a page that has loaded all."""
    page.wait_for_load_state("networkidle")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def deployment(ui: str, name: str) -> str:
    with patient_client(f"{ui}/api") as api:
        return api.get(f"/deployments/name/{name}").json()["id"]


def after(page, name: str, kind: str):
    """Return the first element of a kind after a parameter's name."""
    label = f'//label[starts-with(normalize-space(), "{name} ") or normalize-space()="{name}"]'
    return page.locator(f"xpath={label}/following::{kind}[1]")


def visit(page, address: str, shown: str):
    """Open a page, again if a busy server refused what it reads, and return the first element with this selector."""
    element = page.locator(shown).first

    def open_it() -> bool:
        page.goto(address)
        with contextlib.suppress(PlaywrightTimeoutError):
            element.wait_for(timeout=_SHOWN_MILLISECONDS)
            return True
        return False

    wait_until(open_it, 120)
    return element


def open_artifact(page, ui: str, key: str, path: str = "") -> None:
    """Open the newest artifact of a key."""
    with patient_client(f"{ui}/api") as api:
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        newest = api.post("/artifacts/filter", json=wanted).json()[0]["id"]
    visit(page, f"{ui}{path}/artifacts/artifact/{newest}", "text=Show raw data")


def submit_and_wait(page, ui: str, name: str = "") -> dict:
    """Submit the form, with a name of the run if there is one, and wait for its completion; return the run."""
    page.wait_for_load_state("networkidle")  # the form proposes a name of its own when it has loaded
    if name:
        after(page, "Run Name", "input").fill(name)
    run = save(page, "Submit", "POST", "**/create_flow_run").json()
    with patient_client(f"{ui}/api") as api:

        def ended():
            found = api.get(f"/flow_runs/{run['id']}").json()
            return found if found["state_type"] in ENDED else None

        found = wait_until(ended, 240, every=0.5)
    assert found["state_type"] == "COMPLETED", found["state"]
    return found


def colours(image) -> set[tuple[int, int, int]]:
    """The colours in which an element is shown."""
    picture = Image.open(io.BytesIO(image.screenshot())).convert("RGB")
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


def use_theme(page, theme: str) -> None:
    """Choose the UI's own theme for the next page, not the system's."""
    page.emulate_media(color_scheme="light" if theme == "dark" else "dark")
    page.add_init_script(f"localStorage.setItem('color-scheme', JSON.stringify('{theme}'))")


def test_the_charts_are_seen_in_the_theme_of_the_ui(user, ui, beside, start_receiver, browser):
    receiver = start_receiver("support.receiver_scripts:mixed")
    user.do("endpoint", "add", "charted", receiver.url, "--allow-private")
    kinds = ("order.rejected", *["order.paid"] * 7)
    events = [{"id": f"e{n}", "type": kinds[n % 8], "source": "/s", "data": n} for n in range(80)]
    user.do("emit", user.write_events("e.jsonl", events), "--endpoint", "charted", code=1)

    said = beside.submit(user.run_flow, export_metrics).result().message
    share = re.search(r"[\d.]+ % of [\d,]+ ended events were delivered", said)[0]
    assert share in " ".join(user.do("metrics").stdout.split())

    browser.set_viewport_size({"width": 1400, "height": 1500})
    for theme in ("dark", "light"):
        use_theme(browser, theme)
        open_artifact(browser, ui, "metrics")
        images = browser.locator("img[src^='data:image/svg+xml']")
        images.nth(3).wait_for()
        shown = images.all()
        assert len(shown) == 4
        for image, ink in zip(
            shown,
            (chart_style.BLUE, chart_style.VERMILION, chart_style.VERMILION, chart_style.BLUE),
            strict=True,
        ):
            colour = ImageColor.getrgb(getattr(ink, theme))
            wait_until(lambda image=image, colour=colour: colour in colours(image))
        screenshot(browser, f"charts-{theme}")


def look_at_the_triage(page, ui: str) -> None:
    page.set_viewport_size({"width": 1300, "height": 1100})
    open_artifact(page, ui, "dead-letter-triage")
    page.get_by_role("cell", name="http_503").wait_for()
    page.get_by_text("fixed in release 42").wait_for()
    screenshot(page, "triage")
    table = page.get_by_role("table").first
    wait_until(lambda: table.evaluate("table => table.scrollWidth <= table.parentElement.clientWidth"))
    assert table.bounding_box()["width"] < 800


def purge_by_hand(page, ui: str) -> dict:
    """Fill the form of the purge, and look at its report; return the run."""
    purge = deployment(ui, "purge-dead-letters/purge-daily")
    visit(page, f"{ui}/deployments/deployment/{purge}/run", "text=Age of dead letters")
    after(page, "older_than_days", 'button[normalize-space()="float"]').click()
    after(page, "older_than_days", "input").fill("0")
    screenshot(page, "purge-form")
    run = submit_and_wait(page, ui, "purge-by-hand")
    open_artifact(page, ui, "purge-report")
    page.get_by_text("would be purged").or_(page.get_by_text("purged")).first.wait_for()
    screenshot(page, "purge-report")
    return run


def follow_the_link_of_the_dry_run(page, ui: str, path: str) -> None:
    """Look at the artifact, and open the form, which has the parameters of the dry run."""
    open_artifact(page, ui, "replay-dry-run", path)
    page.get_by_role("cell", name="http_503").wait_for()
    screenshot(page, f"replay-dry-run{path.replace('/', '-')}")
    # The UI opens the form in a new tab, the new UI in the same tab.
    form = page.get_by_role("link", name="open the run form").evaluate("link => link.href")
    visit(page, form, _RATE)
    endpoint = after(page, "endpoint", "*[self::input or self::textarea]")
    expect(endpoint).to_have_value("operated", timeout=_SHOWN_MILLISECONDS)


def test_an_operator_reads_the_triage_replays_from_the_forms_and_purges(
    user, ui, beside, start_receiver, browser
):
    before = user.read("status")
    repaired = user.home / "repaired"
    receiver = start_receiver("support.receiver_scripts:broken_until_repaired", REPAIRED=str(repaired))
    user.do("endpoint", "add", "operated", receiver.url, "--allow-private")
    kinds = ("order.paid", "order.rejected")
    events = [{"id": f"e{n}", "type": kinds[n % 2], "source": "/shop", "data": n} for n in range(8)]
    user.do(
        "emit", user.write_events("e.jsonl", events), "--endpoint", "operated", "--policy", "once", code=1
    )
    assert user.read("status")["dead_letter"] == before["dead_letter"] + 8

    causes = {
        each["code"]: each["fingerprint"] for each in user.read("dlq", "--group", "--endpoint", "operated")
    }
    user.do("dlq", "ack", causes["http_400"], "--note", "fixed in release 42")
    beside.submit(user.run_flow, collect_dead_letters).result()
    look_at_the_triage(browser, ui)

    repaired.touch()
    replay = deployment(ui, "replay-dead-letters/replay")
    form = f"{ui}/deployments/deployment/{replay}/run?parameters=%7B%22dry_run%22%3Atrue%7D"
    visit(browser, form, _RATE)
    after(browser, "endpoint", 'button[normalize-space()="str"]').click()
    after(browser, "endpoint", "*[self::input or self::textarea]").fill("operated")
    screenshot(browser, "replay-form")
    run = submit_and_wait(browser, ui)
    assert run["state"]["message"].startswith("4 would be sent again; 4 skipped ")
    # The form of each UI proposes names of its own, which the flow replaces.
    assert run["name"] == "dry run: replay operated"

    for path in ("", "/v2"):
        follow_the_link_of_the_dry_run(browser, ui, path)
    run = submit_and_wait(browser, ui)
    visit(browser, f"{ui}/runs/flow-run/{run['id']}", "text=Completed")
    screenshot(browser, "replay-run")

    assert run["state"]["message"].startswith("4 sent again: 4 delivered")
    assert run["name"] == "replay operated: 4 dead letters"
    assert len(receiver.journal) == 12
    status = user.read("status")
    delivered, dead = before["delivered"] + 4, before["dead_letter"] + 4
    assert (status["delivered"], status["dead_letter"], status["balanced"]) == (delivered, dead, True)

    run = purge_by_hand(browser, ui)
    assert run["state"]["message"].startswith(f"{dead} purged, {delivered} kept; archived in ")
    assert run["name"] == "purge-by-hand"
    status = user.read("status")
    purged = before["purged"] + dead
    assert (status["purged"], status["dead_letter"], status["balanced"]) == (purged, 0, True)


def webhook_endpoint(ui: str, name: str) -> dict:
    with patient_client(f"{ui}/api") as api:
        return api.get(f"/block_types/slug/webhook-endpoint/block_documents/name/{name}").json()


@pytest.mark.parametrize(
    "options", [(), ("--header", "x-key: s3cret-k3y", "--mode", "structured")], ids=["without", "with"]
)
def test_the_form_of_an_endpoint_saves_a_new_timeout_and_keeps_the_rest(up, user, options, tmp_path, browser):
    name = "with-options" if options else "without-options"
    if options:
        client = trustme.CA().issue_cert("client.example", common_name="client")
        client.private_key_pem.write_to_path(str(tmp_path / "key"))
        client.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
        certificate = ("--client-cert", f"{tmp_path}/cert", "--client-key", f"{tmp_path}/key")
        options = (*options, *certificate, "--proxy", "http://me:s3cret@proxy.example:3128")
    user.do("endpoint", "add", name, "https://hooks.example.com/in", *options)
    before = webhook_endpoint(up.url, name)

    def fill_and_save() -> bool:
        # Each answer fills the form again, and may undo the new timeout.
        visit(browser, f"{up.url}/blocks/block/{before['id']}/edit", "label:has-text('Timeout')")
        browser.wait_for_load_state("networkidle")
        after(browser, "Timeout", "input").fill("7")
        screenshot(browser, f"endpoint-form-{name}")
        save(browser, "Save", "PATCH", "**/block_documents/*")
        return webhook_endpoint(up.url, name)["data"]["timeout"] == 7

    wait_until(fill_and_save, 240)

    # The form leaves out a choice that is the default.
    kept = {name: value for name, value in before["data"].items() if value not in (None, "binary", "basic")}
    assert webhook_endpoint(up.url, name)["data"] == kept | {"timeout": 7}
    shown = user.read("endpoint", "show", name)
    assert (shown["timeout"], shown["url"], shown["headers"]) == (7.0, "set", "set" if options else None)
    assert shown["mode"] == ("structured" if options else "binary")
    if options:
        assert shown["proxy"] == "http://proxy.example:3128"
        assert shown["client_certificate"].startswith("CN=client,")
        assert shown["problem"] is None  # its key still belongs to the certificate


def test_a_client_certificate_can_be_pasted_into_the_form(up, user, browser):
    user.do("endpoint", "add", "pasted", "https://hooks.example.com/in")
    client = trustme.CA().issue_cert("client.example", common_name="client")

    given = {"Certificate": client.cert_chain_pems[0], "Key": client.private_key_pem}
    address = f"{up.url}/blocks/block/{webhook_endpoint(up.url, 'pasted')['id']}/edit"

    def fill_and_save() -> bool:
        visit(browser, address, "text=Client Certificate")
        browser.wait_for_load_state("networkidle")
        for field, pem in given.items():
            heading = f'xpath=//*[normalize-space()="Client {field}"]/following::textarea[1]'
            browser.locator(heading).first.fill(pem.bytes().decode())
        screenshot(browser, "endpoint-form-pasted")
        save(browser, "Save", "PATCH", "**/block_documents/*")
        shown = user.read("endpoint", "show", "pasted")
        return bool(shown["client_certificate"] and shown["client_key"])

    wait_until(fill_and_save, 240)
    shown = user.read("endpoint", "show", "pasted")
    assert (shown["client_certificate"][:10], shown["problem"]) == ("CN=client,", None)


def choose(page, field, option: str) -> None:
    """Choose an option of a list. A click may open the list and close it again, but a key only opens it."""
    field.focus()
    page.keyboard.press("ArrowDown")
    page.get_by_role("option", name=option, exact=True).click()


def save(page, button: str, method: str, path: str):
    """Click on the button that saves a form until the server has saved it; return the answer.

    A form that still validates its fields ignores the click, and a busy server answers 503.
    """

    def click():
        try:
            with page.expect_request(
                lambda sent: sent.method == method and fnmatch(sent.url, path), timeout=_SHOWN_MILLISECONDS
            ) as request:
                page.get_by_role("button", name=button).click(timeout=_SHOWN_MILLISECONDS)
        except PlaywrightTimeoutError:
            return None
        answer = request.value.response()
        assert answer, "the server did not answer"
        assert answer.ok or answer.status == 503, answer.text()
        return answer if answer.ok else None

    return wait_until(click, 120)


def make_busy(page, method: str, path: str) -> None:
    """Answer the first request of this method with 503, as a busy server does."""
    requests = []

    def answer(route) -> None:
        requests.extend([route] if route.request.method == method else [])
        if requests == [route]:
            route.fulfill(status=503, json={})
        else:
            route.fallback()

    page.route(path, answer)


def slack_webhook(api) -> str:
    """Save a notification block of Prefect, and return its id."""
    kind = api.get("/block_types/slug/slack-webhook").json()["id"]
    query = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
    schema = api.post("/block_schemas/filter", json=query).json()[0]["id"]
    new = {
        "name": "unreliable",
        "block_type_id": kind,
        "block_schema_id": schema,
        "data": {"url": "https://127.0.0.1/services/T/B/x"},
    }
    return api.post("/block_documents/", json=new).json()["id"]


def test_an_automation_becomes_reliable_by_the_choice_of_our_block(up, user, start_receiver, browser):
    receiver = start_receiver("resonant.testing:always_ok")
    user.do("endpoint", "add", "reliable", receiver.url, "--allow-private")
    trigger = {"type": "event", "posture": "Reactive", "expect": ["com.example.failed"], "threshold": 1}
    action = {"type": "send-notification", "subject": "import", "body": "{{ event.payload.text }}"}
    existing = {
        "name": "notify of failures",
        "trigger": trigger | {"within": 0},
        "actions": [action | {"block_document_id": slack_webhook(up.api)}],
    }
    automation = up.api.post("/automations/", json=existing).json()["id"]
    # The address is the repository's, which tests do not reach.
    browser.route("**/resonant/main/docs/images/logo.png", lambda asked: asked.fulfill(path=LOGO))

    visit(browser, f"{up.url}/blocks/catalog/resonant-notification/create", "text=Block Name")
    browser.wait_for_load_state("networkidle")
    after(browser, "Block Name", "input").fill("reliable")
    after(browser, "Endpoint", "textarea").fill("reliable")
    screenshot(browser, "notification-form")
    save(browser, "Create", "POST", "**/block_documents/")
    browser.get_by_text("into your flows").wait_for()
    browser.get_by_text('ResonantNotification.load("reliable")').first.wait_for()
    logo = browser.locator("img[src$='/docs/images/logo.png']").first
    wait_until(lambda: logo.evaluate("image => image.complete && image.naturalWidth > 0"))
    screenshot(browser, "notification")

    visit(browser, f"{up.url}/automations/automation/{automation}/edit", "button:has-text('Next')")
    browser.wait_for_load_state("networkidle")
    browser.get_by_role("button", name="Next").click()
    choose(browser, browser.get_by_role("button", name="unreliable"), "reliable")
    screenshot(browser, "notification-in-an-automation")
    # After a 503, the UI shows its last page, where "Save & Exit" is "Save".
    make_busy(browser, "PUT", "**/automations/*")
    save(browser, "Save", "PUT", "**/automations/*")

    requests, posted = post_until(up.api, lambda: receiver.journal, "com.example.failed", text="It failed.")
    assert len(requests) <= posted
    assert json.loads(base64.b64decode(requests[0]["body"])) == {"subject": "import", "body": "It failed."}
