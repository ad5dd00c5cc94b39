"""The console in a real browser: every page and action, in both themes, on a wide and on a narrow screen."""

import re
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from resonant.console.asked import path
from support.browser import VIOLATIONS, running_chromium, tab_of
from support.console_store import HOSTILE, HOSTILE_ID, LONG_NAME, fill
from support.sdks import installed
from support.serving import serving

pytestmark = [pytest.mark.program, pytest.mark.slow, pytest.mark.timeout(300)]

PASSWORD = "correct horse"
OF_EVENTS = [path("events", "/shop", each) for each in (
    "evt_059", "evt_029", "evt_000", "refused_0", "text", "bytes", "empty", HOSTILE_ID,
)]  # fmt: skip
PAGES = [
    "/", "/endpoints", "/endpoints?name=no-such", "/deliveries", "/deliveries?status=delivered", "/deliveries?status=dead_letter",
    "/dead-letters", "/dead-letters?endpoint=orders", "/subscriptions", "/audit", *OF_EVENTS,
    *(path("endpoints", each) for each in ("billing", "orders", "warehouse", "crm", "archive", LONG_NAME)),
    "/subscriptions?event=%7B%22type%22%3A%22order.paid%22%2C%22source%22%3A%22%2Fshop%22%7D",
    "/dead-letters/replay?endpoint=billing", "/dead-letters/purge?endpoint=warehouse", "/deliveries/cancel?endpoint=billing",
    path("events", "/shop", "down_0") + "/replay?endpoint=billing",
]  # fmt: skip
REFUSED = {
    "/nowhere": 404,
    "/subscriptions?event=%7B": 422,
    "/deliveries?colour=red": 422,
    path("endpoints", HOSTILE): 404,
}
# Counts what hostile text does.
TRAP = "window.ran = 0; window.hostile = () => { ran += 1; };"
# What is wrong with a page that is shown: calls of hostile text, blocked resources, a page wider than the window, axe's findings.
LOOK = """async rules => [
    ran && `hostile text ran ${ran} times`, ...violations,
    document.documentElement.scrollWidth > innerWidth && `it is ${document.documentElement.scrollWidth} px wide`,
    ...(await axe.run(rules ? {runOnly: rules} : {})).violations.map(each => `${each.id}: ${each.nodes.map(node => node.html)}`),
].filter(Boolean)"""


@pytest.fixture(scope="module")
def axe():
    return Path(installed("node_modules"), "axe-core", "axe.min.js").read_text()


@pytest.fixture(scope="module")
def server(axe, chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    url = f"sqlite:///{folder}/store.db"
    fill(url, time.time())
    auth = {"PREFECT_SERVER_API_AUTH_STRING": f"resonant:{PASSWORD}"}
    with serving(url, folder, command="console", ready="static/console.css", **auth) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server):
    """It starts after the store is filled, since an event loop runs in this thread from then on."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def open_tab(browser, server):
    """Open a tab that has logged in; at its end, its script must have had no error."""

    @contextmanager
    def open_tab(width=1280):
        screen = {"viewport": {"width": width, "height": 900}}
        with tab_of(
            browser, base_url=server.url, permissions=["clipboard-read", "clipboard-write"], **screen
        ) as page:
            errors = []
            page.add_init_script(VIOLATIONS + TRAP)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
            log_in(page)
            yield page
            assert [each for each in errors if "Failed to load" not in each] == []

    return open_tab


@pytest.fixture
def page(open_tab):
    with open_tab() as page:
        yield page


def log_in(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Your name").fill("Zoë")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")


def problems(page: Page, axe: str) -> list[str]:
    """Return what is wrong with a page in the light theme, and then with its colours in the dark one."""
    page.emulate_media(color_scheme="light")
    page.evaluate(axe)
    found = page.evaluate(LOOK)
    page.emulate_media(color_scheme="dark")
    return found + page.evaluate(LOOK, ["color-contrast"])


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_is_accessible_and_fits_in_both_themes_and_no_text_runs(open_tab, axe, width):
    found = {}
    with open_tab(width) as page:
        for address in [*PAGES, *REFUSED, "/login"]:
            if address == "/login":
                page.context.clear_cookies()
            assert page.goto(address).status == REFUSED.get(address, 200), address
            if wrong := problems(page, axe):
                found[address] = wrong
    assert found == {}


def test_hostile_text_is_shown_whole(page):
    for address in (
        "/",
        "/dead-letters",
        path("events", "/shop", "text"),
        path("events", "/shop", HOSTILE_ID),
    ):
        page.goto(address)
        expect(page.locator("main")).to_contain_text(HOSTILE[:20])
        expect(page.locator("main")).to_contain_text("\\u202e</table>")
    expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE_ID)
    assert page.locator("main :is(script, img, b)").count() == 0


def test_an_event_says_that_its_body_was_erased_or_removed(page, axe):
    page.goto("/deliveries?status=delivered&endpoint=archive")
    page.locator("td a", has_text="erased").first.click()
    expect(page.locator("main")).to_contain_text("erased")
    assert problems(page, axe) == []
    page.goto(path("events", "/shop", "evt_000"))
    expect(page.locator("main")).to_contain_text("removed")


def test_the_keyboard_alone_reaches_pause_and_submits_it(page):
    page.goto("/endpoints/archive")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "reason":
            page.keyboard.type("a rehearsal")
        if page.evaluate("document.activeElement.textContent") == "Pause":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("archive is paused")
    expect(page.locator("main")).to_contain_text("a rehearsal")


def test_pause_and_resume(page):
    page.goto("/endpoints/orders")
    page.get_by_label("Reason").fill(HOSTILE[:60])
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("orders is paused")
    expect(page.locator("main")).to_contain_text(HOSTILE[:60])
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("orders is resumed")


def open_cause(page: Page, endpoint: str) -> None:
    page.goto(f"/dead-letters?endpoint={endpoint}")
    page.get_by_role("link", name=re.compile("dead letter")).first.click()


def act(page: Page, plan: str, says: str) -> None:
    """Ask for a plan, and confirm it."""
    page.get_by_role("button", name=plan).or_(page.get_by_role("link", name=plan)).first.click()
    page.locator("main form[method=post] button").first.click()
    expect(page.get_by_role("status")).to_contain_text(re.compile(says))


def test_acknowledge_a_cause(page):
    open_cause(page, "orders")
    page.get_by_label("Note").fill("known")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("status")).to_contain_text("cknowledged")
    page.goto("/dead-letters?endpoint=orders")
    expect(page.locator("main")).to_contain_text("Acknowledged by Zoë")


def test_replay_purge_and_cancel_after_a_look_at_their_plans(page, axe):
    open_cause(page, "billing")
    act(page, "Replay", "5 ")
    assert problems(page, axe) == []
    open_cause(page, "warehouse")
    act(page, "Purge", "3 ")
    page.goto("/deliveries?endpoint=crm")
    act(page, "Cancel", "2 ")
    page.goto("/audit")
    actions = page.locator("td:nth-child(3)").all_text_contents()
    assert {"replay", "purge", "cancel"} <= set(actions)


def test_the_session_ends_with_log_out(page):
    page.get_by_role("link", name="log out").click()
    page.goto("/audit")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_command_can_be_copied(page):
    page.goto(path("events", "/shop", "evt_059"))
    page.get_by_text("Copy as curl").click()
    page.get_by_role("button", name="Copy").last.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl ")


def test_a_page_refreshes_itself_but_not_while_somebody_works_on_it(page):
    page.clock.install()
    page.goto("/deliveries")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "static" not in request.url else None)
    page.get_by_label("Endpoint").focus()
    page.clock.run_for(30_000)
    assert asked == []
    page.get_by_label("Endpoint").blur()
    page.evaluate("document.querySelector('h1').textContent = 'stale'")
    page.clock.run_for(6_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("Unfinished deliveries")
    page.get_by_label("Endpoint").fill("orders")
    page.get_by_label("Endpoint").blur()
    seen = len(asked)
    page.clock.run_for(30_000)
    assert len(asked) == seen


def test_a_page_says_that_it_is_stale_if_the_server_does_not_answer(page):
    page.clock.install()
    page.goto("/deliveries")
    page.route("**/deliveries", lambda route: route.abort())
    page.clock.run_for(6_000)
    expect(page.get_by_role("status")).to_contain_text("Not refreshed since")
