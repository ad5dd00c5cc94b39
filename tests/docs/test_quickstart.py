"""The README and the pages that begin with its commands. tests/e2e/test_wheel.py follows them with the installed wheel."""

import re

from support.pages import SHELLS, blocks_of, commands
from support.reader import HTTP, QUICKSTART, README


def test_the_line_that_the_readme_shows_is_one_of_the_receiver():
    [example] = [block for block in blocks_of(README.section("Quickstart")) if block.language == "text"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  order-2-paid  [^\n]* try 1 -> 200  \{[^\n]*\}\n", example.text)


def test_the_quickstart_and_the_page_about_http_begin_as_the_readme_does():
    """Therefore it is enough to follow these pages after the README."""

    def read(page, heading):
        every = blocks_of(page.section(heading))
        return [words for block in every if block.language in SHELLS for words in commands(block)]

    readme = read(README, "Quickstart")
    deliver = read(QUICKSTART, "Deliver two events")
    assert deliver[0] == ["resonant", "up"]
    assert readme[0][:2] == ["resonant", "up"]
    assert deliver[1:] == readme[1:7]
    [file] = [each.text for each in blocks_of(QUICKSTART.section("Deliver two events")) if "<<" in each.text]
    assert file in README.section("Quickstart")
    assert read(HTTP, "From curl to the receiver")[:2] == readme[:2]
