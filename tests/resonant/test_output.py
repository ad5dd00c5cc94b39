"""How data is shown."""

import json

from hypothesis import given
from hypothesis import strategies as st

from resonant import output


def test_raw_json_keeps_all_its_digits():
    text = output.with_raw({"id": "x"}, "data", b'{"price":0.12345678901234567890123}')
    assert text == '{"id": "x", "data": {"price":0.12345678901234567890123}}'


@given(st.lists(st.integers()))
def test_an_array_is_written_as_its_rows_come(rows):
    written = []
    output.write_json_array(map(str, rows), written.append)
    assert json.loads("".join(written)) == rows


def test_json_escapes_control_and_invisible_characters():
    row = output.with_raw({"error": "\x9b2J\u202e"}, "data", '{"a":"\u2066\x7f\U000e0041"}'.encode())
    assert row == '{"error": "\\u009b2J\\u202e", "data": {"a":"\\u2066\\u007f\\udb40\\udc41"}}'
    assert json.loads(row) == {"error": "\x9b2J\u202e", "data": {"a": "\u2066\x7f\U000e0041"}}
