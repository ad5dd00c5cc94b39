"""The diagrams agree with their Mermaid sources, and load nothing."""

import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from support.pages import PROJECT, pages

SOURCES = sorted((PROJECT / "docs" / "images").glob("*.mmd"))
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
MOST_BYTES = 60_000


def labels(source):
    """Count the texts of a Mermaid diagram: each node once, and each label of an edge."""
    if source.startswith("flowchart"):
        return Counter(re.findall(r"\w\[\(?([^\])]+)", source) + re.findall(r"\|([^|]+)\|", source))
    edges = re.findall(r"^ +(\S+) --> ([^\s:]+)(?:: (.+))?$", source, re.MULTILINE)
    states = {state for first, second, _ in edges for state in (first, second)} - {"[*]"}
    return Counter([*states, *(label for *_, label in edges if label)])


def texts(svg):
    """Count the texts of an SVG file, which has a ``tspan`` for each line."""
    found = (
        " ".join(" ".join("".join(line.itertext()) for line in text).split())
        for text in svg.iter(f"{SVG}text")
    )
    return Counter(each for each in found if each)


def loaded(svg):
    """Return the parts of an SVG file that would run or load something."""
    for element in svg.iter():
        if element.tag in (f"{SVG}script", f"{SVG}foreignObject"):
            yield element.tag
        for name, value in element.attrib.items():
            of_link = name in ("href", "src", f"{XLINK}href")
            if name.startswith("on") or (of_link and not value.startswith("#")):
                yield f"{name}={value}"
            yield from addresses(value)
        yield from addresses(element.text or "")


def addresses(text):
    return re.findall(r"""@import.*|url\((?!["']?#)[^)]*\)|(?:https?:)?//[^\s"']+""", text)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_diagram_has_the_labels_of_its_source(source):
    svg = ET.parse(source.with_suffix(".svg"))
    expected, drawn = labels(source.read_text()), texts(svg)
    assert drawn == expected, f"draw {source.name} again, as CONTRIBUTING.md says"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_diagram_is_small_and_loads_nothing(source):
    path = source.with_suffix(".svg")
    assert path.stat().st_size < MOST_BYTES
    assert list(loaded(ET.parse(path))) == []


def test_pages_show_each_diagram():
    shown = {(page.path.parent / link).resolve() for page in pages() for link in page.links}
    assert len(SOURCES) == 3
    assert [each.name for each in SOURCES if each.with_suffix(".svg") not in shown] == []


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        '<a onclick="alert(1)" />',
        '<image href="https://a.example/b.png" />',
        '<image href="b.png" />',
        "<style>@import 'b.css';</style>",
        '<rect style="fill: url(b.svg#c)" />',
        "<foreignObject />",
    ],
)
def test_content_that_loads_or_runs_something_is_found(content):
    svg = ET.fromstring(f'<svg xmlns="http://www.w3.org/2000/svg"><g fill="url(#a)">{content}</g></svg>')
    assert list(loaded(svg))
