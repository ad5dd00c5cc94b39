"""Generated input lines: good ones, and damaged ones that may still be good."""

import json
import random

from hypothesis import strategies as st

characters = st.characters()  # surrogates too
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**25), 1e308, 5e-324])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(characters, max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=4)
    ),
    max_leaves=5,
)
good_lines = st.builds(
    lambda fields, indent, ascii_only: json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    ),
    st.fixed_dictionaries(
        {
            "type": st.text(min_size=1, max_size=20),
            "source": st.text(min_size=1, max_size=20),
            "data": values,
        },
        optional={
            "id": st.text(min_size=1, max_size=30),
            "time": st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
            "subject": st.text(min_size=1, max_size=20),
            "datacontenttype": st.sampled_from(["application/json", "a/b+json; c=d", "text/plain"]),
            "dataschema": st.sampled_from(["urn:x", "https://example.com/order.json"]),
            "expirytime": st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
            "partitionkey": st.booleans() | st.integers() | st.text(),
        },
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
DAMAGE = [bytes([code]) for code in range(256)]
DAMAGE += [b"", b"[" * 3000, b'{"":' * 3000, b"\\u", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
DAMAGE += [b"\xc0\xaf", b"1e999", b"NaN", b"-Infinity", b"0" * 5000, b"9" * 5000, b"1.0e-99999999999"]
DAMAGE += [b'{"id":1}', b"\x1b[2J", b'"id":"' + b"x" * 300 + b'",', b"null", b"\r\n"]
DAMAGE += [text.encode() for text in ("\u2028", "\uffff", "\U0010ffff")]


def damaged(line, rng):
    """Replace some bytes of a line, at up to three places."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(line))
        line = line[:place] + rng.choice(DAMAGE) + line[place + rng.randint(0, 3) :]
    return line


seeds = st.integers(0, 2**32)
damaged_lines = st.builds(lambda line, seed: damaged(line, random.Random(seed)), good_lines, seeds)
