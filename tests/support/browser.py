"""A real browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from support.programs import need

# A script for pages in a browser that records each block by their content security policy.
VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", event => {
        violations.push(`${event.effectiveDirective} ${event.blockedURI}`);
    });
"""
# Chromium must not look for services in a network that is not there.
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def running_chromium(*options: str) -> Iterator[Browser]:
    """Run Chromium with further options; until it ends, an event loop runs in this thread."""
    executable = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*_QUIET, *options])
        yield browser
        browser.close()


@contextmanager
def tab_of(browser: Browser, **of_context: Any) -> Iterator[Page]:
    """Open a tab, which knows nothing of other tabs."""
    context = browser.new_context(**of_context)
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@contextmanager
def tab(**of_context: Any) -> Iterator[Page]:
    """Open a tab in a Chromium of its own."""
    with running_chromium() as browser, tab_of(browser, **of_context) as page:
        yield page


def blocked(page: Page) -> list[str]:
    """Return the resources blocked by the policy of a page, except the analytics of the new UI."""
    return [each for each in page.evaluate("violations") if not each.startswith("connect-src")]
