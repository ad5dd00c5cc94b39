"""The documentation site loads nothing from other hosts: `make docs` checks each site that it builds by this function."""

import re

import pytest
from pathspec import GitIgnoreSpec

from docs.offline import foreign_resources
from support.pages import PROJECT

OWN = {
    "index.html": """<link rel="canonical" href="https://resonant.example/"><link rel="stylesheet" href="assets/a.css">
        <script src="../assets/a.js"></script><img src="data:image/png;base64,AA=="><a href="https://prefect.io">a link</a>""",
    "a.css": "@import 'b.css'; .a { background: url(data:image/svg+xml,a) } /* https://a.example */",
    "a.js": "// https://lodash.com/license\nconst name = 'http://www.w3.org/2000/svg'",
}
FOREIGN = {
    "script.html": ('<script src="https://unpkg.com/a"></script>', "https://unpkg.com/a"),
    "style.html": ('<link rel="stylesheet" href="//fonts.example/css">', "//fonts.example/css"),
    "early.html": ('<link rel="preconnect" href="https://fonts.example">', "https://fonts.example"),
    "image.html": ('<img src="http://a.example/b.svg">', "http://a.example/b.svg"),
    "inline.html": ('<p style="background: url(https://a.example/b)">', "https://a.example/b"),
    "font.css": ("@font-face { src: url('https://a.example/b.woff2') }", "https://a.example/b.woff2"),
    "import.css": ('@import "https://a.example/b.css";', "https://a.example/b.css"),
    "load.js": ('load("https://cdn.jsdelivr.net/npm/a")', "https://cdn.jsdelivr.net/npm/a"),
    "ask.js": ("ask(`https://api.github.com/repos/${a}`)", "https://api.github.com/repos/${a}"),
}


def test_links_comments_and_own_resources_are_allowed(tmp_path):
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    assert foreign_resources(tmp_path) == []


@pytest.mark.parametrize("name", FOREIGN)
def test_a_resource_of_another_host_is_found(name, tmp_path):
    text, url = FOREIGN[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_text(text)
    assert foreign_resources(tmp_path) == [f"folder/{name}: {url}"]


def test_the_site_has_no_code_of_its_hooks():
    settings = (PROJECT / "mkdocs.yml").read_text()
    # Not as YAML: some values have tags of mkdocs.
    [patterns] = re.findall(r"^exclude_docs: \|\n((?:  .*\n)+)", settings, re.MULTILINE)
    excluded = GitIgnoreSpec.from_lines(patterns.split())
    assert all(map(excluded.match_file, ("hooks.py", "__pycache__/hooks.cpython-313.pyc")))
    assert not excluded.match_file("how-to/index.md")
