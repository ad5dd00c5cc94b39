"""Every link within the project leads to a file that exists, and to a heading if it names one."""

import re
from urllib.parse import unquote

import pytest
import yaml

from support.pages import PROJECT, Page, pages

PAGES = pages()
ON_GITHUB = re.compile(
    r"https://github\.com/resonant-events/resonant/(?:blob|tree)/main/([\w./-]+)(?:#([\w-]+))?"
)
CODE = [
    path
    for folder in ("src", "flows", "tasks", "blocks", "deployments", "examples")
    for path in (PROJECT / folder).rglob("*")
    if path.suffix in (".py", ".yml", ".yaml", ".json", ".toml")
]


def broken(page, link):
    """Return why a link leads nowhere; nothing if it does not, or leads to another host."""
    if re.match(r"[a-z][a-z+.-]*:", link):
        return ""
    path, _, anchor = unquote(link).partition("#")
    target = (page.path.parent / path).resolve() if path else page.path
    return missing(target, anchor)


def missing(path, anchor):
    if not path.exists() or PROJECT not in (path, *path.parents):
        return f"no file {path}"
    if anchor and anchor not in Page(path).anchors:
        return f"no heading {anchor} in {path}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_within_the_project_leads_somewhere(page):
    assert [(link, why) for link in page.links if (why := broken(page, link))] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_the_projects_files_on_github_leads_somewhere(page):
    found = ON_GITHUB.findall(page.text)
    assert [why for path, anchor in found if (why := missing(PROJECT / path, anchor))] == []


def test_every_link_from_the_code_to_the_documentation_leads_somewhere():
    found = [(path, *link) for path in CODE for link in ON_GITHUB.findall(path.read_text())]
    assert [(str(path), why) for path, to, anchor in found if (why := missing(PROJECT / to, anchor))] == []


def test_a_link_that_leads_nowhere_is_found():
    page = PROJECT / "README.md"
    assert broken(Page(page), "docs/decisions/0005-alerts.md#consequences") == ""
    assert "no heading consequence " in broken(Page(page), "docs/decisions/0005-alerts.md#consequence")
    assert "no file" in broken(Page(page), "docs/no-such-page.md")
    assert "no file" in broken(Page(page), "../outside.md")
    assert broken(Page(page), "https://example.com/no-such-page") == ""


def test_links_and_anchors_of_each_kind_are_read(tmp_path):
    page = Page(tmp_path / "page.md")
    page.path.write_text(
        "# What's `new`: a_b, c-d?\n\n[one](a.md#b) ![two](c.svg) [three][ref] `[no](link.md)`\n\n"
        '<img src="d.png" width="3">\n\n| [four](e.md) |\n| --- |\n\n[ref]: f.md\n'
    )
    assert sorted(page.links) == ["a.md#b", "c.svg", "d.png", "e.md", "f.md"]
    assert page.anchors == {"whats-new-a_b-c-d"}


# --- the site ---------------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, which names objects of Python."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def places(nav):
    for each in nav:
        for value in each.values() if isinstance(each, dict) else [each]:
            yield from places(value) if isinstance(value, list) else [value]


def test_the_site_has_every_page_of_docs_and_no_other():
    nav = list(places(yaml.load((PROJECT / "mkdocs.yml").read_text(), Loader)["nav"]))
    assert len(nav) == len(set(nav))
    docs = {
        page.path.relative_to(PROJECT / "docs").as_posix()
        for page in PAGES
        if PROJECT / "docs" in page.path.parents
    }
    assert set(nav) == docs | {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
