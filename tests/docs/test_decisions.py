"""Every decision has the usual form, and the index lists it by its title."""

from __future__ import annotations

import re

import pytest

from support.pages import PROJECT

FOLDER = PROJECT / "docs" / "decisions"
DECISIONS = sorted(FOLDER.glob("0*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_status_a_context_the_decision_and_its_consequences(path):
    text = path.read_text()
    assert re.match(rf"# {int(path.name[:4])}\. [^\n]+\n\nStatus: (accepted|replaced)\b", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_the_index_lists_every_decision_by_its_title():
    titles = [path.read_text().partition("\n")[0].removeprefix("# ").split(". ", 1) for path in DECISIONS]
    rows = [
        f"| {number} | [{title}]({path.name}) |"
        for path, (number, title) in zip(DECISIONS, titles, strict=True)
    ]
    assert [line for line in (FOLDER / "index.md").read_text().splitlines() if "](0" in line] == rows
