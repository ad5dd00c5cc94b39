"""Every decision has the usual form, and the index lists it with its title and its status."""

import re

import pytest

from support.pages import PROJECT

FOLDER = PROJECT / "docs" / "decisions"
DECISIONS = sorted(FOLDER.glob("0*.md"))
HEAD = re.compile(
    r"# (\d+)\. ([^\n]+)\n\nStatus: (accepted|replaced (?:in part )?by \[\d+\]\(00\d\d-[a-z-]+\.md\))\."
)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_status_a_context_the_decision_and_its_consequences(path):
    text = path.read_text()
    assert HEAD.match(text)[1] == path.name[:4].lstrip("0")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_the_index_lists_every_decision_with_its_title_and_status():
    heads = [HEAD.match(path.read_text()).groups() for path in DECISIONS]
    rows = [
        f"| {number} | [{title}]({path.name}) | {status} |"
        for path, (number, title, status) in zip(DECISIONS, heads, strict=True)
    ]
    assert [line for line in (FOLDER / "index.md").read_text().splitlines() if "](0" in line] == rows
