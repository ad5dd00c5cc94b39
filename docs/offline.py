"""A hook of mkdocs that checks the built site: it loads no script, style, font, image or frame from another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

# The attributes by which an element loads something.
_LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "embed": "src",
    "source": "src",
    "object": "data",
    "link": "href",
}
# Links that load nothing.
_NAMES = ("canonical", "prev", "next", "alternate")
_FOREIGN = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
# Scripts name many addresses in comments and messages, so these are the hosts from which the theme's scripts load something.
_IN_SCRIPT = re.compile(
    r"""https?://(?:[a-z0-9-]+\.)*(?:unpkg\.com|jsdelivr\.net|cloudflare\.com|googleapis\.com|api\.github\.com)/[^"'`\s]*""",
    re.IGNORECASE,
)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Check the site.

    Raises:
        PluginError: it would load something from another host.
    """
    from mkdocs.exceptions import PluginError  # noqa: PLC0415 - the tests need the rest of this module without mkdocs

    if found := foreign_resources(Path(config.site_dir)):
        raise PluginError("the site would load from other hosts:\n" + "\n".join(found))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        url = values.get(_LOADING.get(tag, "")) or ""
        if _FOREIGN.match(url) and values.get("rel") not in _NAMES:
            self.loaded.append(url)
        self.loaded += _IN_STYLE.findall(values.get("style") or "")


def foreign_resources(site: Path) -> list[str]:
    """Return the resources of other hosts that a site loads, as ``FILE: URL``."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css", ".js"):
            found += [f"{path.relative_to(site)}: {url}" for url in _urls(path)]
    return found


def _urls(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        return _IN_SCRIPT.findall(text)
    if path.suffix == ".css":
        return _IN_STYLE.findall(text)
    page = _Page()
    page.feed(text)
    return page.loaded
