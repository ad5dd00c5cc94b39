"""Arbitrary input: each line is an event or is refused with one clear line, and no line is lost or read twice."""

import asyncio
import json
import os
import random
import re
import tempfile
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resonant.cli.send.files import SHOWN_BAD_LINES, _LineCounts, _Reader, _Splitter
from resonant.cli.send.sources import Interruption, Source
from resonant.errors import InvalidEvent
from resonant.input_lines import event_from_fields, parse_event
from support.examples import WAYS
from support.hostile_lines import characters, damaged, damaged_lines, good_lines, seeds, values
from support.lines import as_line

fuzzed = settings.get_profile("fuzz")
fuzzed_with_io = settings.get_profile("fuzz-io")

MOST_BYTES = 2_000
MEMBERS = [
    "id",
    "type",
    "source",
    "data",
    "data_base64",
    "time",
    "subject",
    "specversion",
    "datacontenttype",
    "dataschema",
    "expirytime",
    "traceparent",
    "tracestate",
    "partitionkey",
    "Subject",
]
keys = st.sampled_from(MEMBERS)


def read(line, **options):
    """Read a line; check the properties of every event and of every refusal."""
    try:
        event = parse_event(line, max_bytes=MOST_BYTES, **options)
    except InvalidEvent as refusal:
        text = str(refusal)
        assert 0 < len(text) < 2_000
        assert text.isprintable(), "one line, and nothing that a terminal would obey"
        return None
    assert 0 < len(event.id) <= 255
    assert len(event.body) <= MOST_BYTES
    for name, value in event.extensions.items():
        assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        if isinstance(value, str):
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value)
            assert len(value) <= 1024
        else:
            assert -(2**31) <= value < 2**31
    assert event.body == b"" or event.form != "absent"
    for text in (event.datacontenttype, event.dataschema, event.traceparent, event.tracestate):
        # Sent unencoded in a header.
        assert text is None or re.fullmatch(r"[ -~]{1,1024}", text)
    for text in (event.id, event.type, event.source, event.time, event.subject):
        # PostgreSQL, a header and a log line can contain it.
        assert text is None or not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text)
        assert text is None or 1 <= len(text) <= 255
    repeated = parse_event(as_line(event), max_bytes=MOST_BYTES)
    assert repeated == event
    assert repeated.digest == event.digest
    return event


@fuzzed
@given(st.binary(max_size=200) | st.text(characters, max_size=100))
def test_anything_is_an_event_or_is_refused(line):
    read(line)


@fuzzed
@given(good_lines, seeds)
def test_a_damaged_line_is_an_event_or_is_refused(line, seed):
    rng = random.Random(seed)
    for _ in range(WAYS):
        read(damaged(line, rng))


@fuzzed
@given(
    st.dictionaries(keys | st.text(characters, max_size=3), values, max_size=8),
    st.none() | st.text(characters),
)
def test_an_object_of_any_fields_is_an_event_or_is_refused(fields, default_type):
    event = read(json.dumps(fields), default_type=default_type)
    try:
        same = event_from_fields(fields, default_type=default_type, max_bytes=MOST_BYTES)
    except InvalidEvent:
        same = None
    # Both ways to make an event agree, except that only one makes a new id.
    assert (event is None) == (same is None) or "id" not in fields


@fuzzed
@given(
    st.lists(
        st.sampled_from([b"a", b"\n", b"\n\n", b"\r\n", b"bc", b"\x00", b"\xff", b"long" * 5]), max_size=30
    ),
    st.lists(st.integers(0, 40), max_size=10),
    st.integers(1, 12),
)
def test_lines_are_the_same_however_the_bytes_arrive(parts, cuts, longest):
    data = b"".join(parts) + b"\n"
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter, lines = _Splitter(longest), []
    for start, end in pairwise(places):
        lines += splitter.split(data[start:end])
        assert len(splitter._rest) <= longest
    expected = [line if len(line) <= longest else None for line in data.split(b"\n")[:-1]]
    assert lines == list(enumerate(expected, 1))


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as opened:
        yield opened


@fuzzed_with_io
@given(
    st.lists(good_lines | damaged_lines | st.sampled_from([b"", b"  ", b"\t\r"]), max_size=6), st.booleans()
)
def test_of_a_file_every_line_is_an_event_or_is_reported_by_its_place(runner, lines, ended):
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    reports = []

    async def events_of(file):
        counts = _LineCounts(report=reports.append)
        reader = _Reader(read_strictly, counts, lambda _bytes: None, longest_line=10_000)
        found = []
        async with aclosing(reader.batches([Source("FILE", file.fileno())], Interruption())) as batches:
            async for batch in batches:
                found += batch.places
        return found, counts.bad

    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        places, bad = runner.run(events_of(file))
    reports = [report for report in reports if not report.startswith("FILE: looks like ")]
    assert len(reports) == min(bad, SHOWN_BAD_LINES)
    assume(bad <= SHOWN_BAD_LINES)
    refused = [report.split(": ", 1)[0] for report in reports]
    expected = [
        f"FILE:{number}" for number, line in enumerate(data.split(b"\n"), 1) if line and not line.isspace()
    ]
    assert sorted([*places, *refused]) == sorted(expected)


def read_strictly(line):
    return parse_event(line, max_bytes=MOST_BYTES)
