"""Hooks of mkdocs: links that lead out of ``docs``, pages at the top level of the project, and a site without foreign hosts.

The theme would ask GitHub's API about the repository on every page; the site does not.

On GitHub, a link like ``../SECURITY.md`` shows the file. On the site, it shows the page made of it; links to other files, such
as ``../examples/outbox.py``, lead to GitHub.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_PROJECT = Path(__file__).parents[1]
_TOP_LEVEL_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(?![a-z]+:|#|/)([^)\s#]+)", re.MULTILINE)
# The theme's own script would load from these hosts, in browsers without these features.
_OTHER_HOSTS = re.compile(r"https://(unpkg\.com|api\.github\.com)/")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages at the top level."""
    for name in _TOP_LEVEL_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(_PROJECT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links, except in code."""
    name = page.file.src_uri
    folder = "" if name in _TOP_LEVEL_PAGES else posixpath.join("docs", posixpath.dirname(name))

    def rewritten(link: re.Match[str]) -> str:
        return link[1] + _target(posixpath.normpath(posixpath.join(folder, link[2])), page, config, files)

    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Remove the other hosts from the theme's script, and let no page ask GitHub; ``docs/offline.py`` then checks the site."""
    site = Path(config.site_dir)
    for script in site.glob("assets/javascripts/bundle.*.js"):
        script.write_text(_OTHER_HOSTS.sub("", script.read_text(encoding="utf-8")), encoding="utf-8")
    for page in site.rglob("*.html"):  # 404.html too, which on_post_page would not get
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('data-md-component="source"', ""), encoding="utf-8")


def _target(path: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the link from a page to a file of the project: relative if the site has it, or if no such file exists."""
    of_site = path.removeprefix("docs/")
    in_site = path in _TOP_LEVEL_PAGES or (path != of_site and files.get_file_from_path(of_site))
    if in_site or not (_PROJECT / path).exists():
        return posixpath.relpath(of_site, posixpath.dirname(page.file.src_uri) or ".")
    kind = "tree" if (_PROJECT / path).is_dir() else "blob"
    return f"{config.repo_url}/{kind}/main/{path}"
