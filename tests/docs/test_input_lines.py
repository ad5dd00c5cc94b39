"""The guides about input lines: the lines are valid, and are sent as the table says."""

import re

import pytest

from resonant.input_lines import parse_event
from resonant.sinks.wire import message
from support.pages import PROJECT, Page

SEND = Page(PROJECT / "docs" / "how-to" / "send-events.md")
GUIDES = [SEND, Page(PROJECT / "docs" / "how-to" / "restore-order.md")]
LINES = [block.text for page in GUIDES for block in page.blocks if block.language == "json"]
WITHOUT_TYPE = {
    "an empty body, without a content type unless the line has one",
    "the bytes, without a content type",
}


def data_table() -> list[tuple[str, str]]:
    """Return the members of each row, and what the receiver gets."""
    table = SEND.text.partition("| line | the receiver gets |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return [(", ".join(re.findall(r'`("[^`]*)`', members)), gets) for members, gets in rows]


@pytest.mark.parametrize("line", LINES)
def test_a_line_in_a_guide_is_an_event(line):
    assert parse_event(line).extensions.keys() <= {"partitionkey", "sequence"}


def test_the_data_is_sent_as_the_table_says():
    table = data_table()
    assert len(table) == 6
    for members, gets in table:
        event = parse_event(f'{{"type": "t", "source": "/s"{members and ", "}{members}}}')
        headers, body = message(event, "binary")
        sent = dict(headers).get(b"content-type")
        if gets in WITHOUT_TYPE:
            assert sent is None
        else:
            given = re.search(r'"datacontenttype": "([^"]*)"', members)
            assert sent == (given[1].encode() if given else b"application/json")
        assert bool(body) is ("empty" not in gets)
