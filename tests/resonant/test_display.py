"""Untrusted text is shown without hidden characters, reordering or markup; emoji and all scripts stay intact."""

import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from resonant.display import ago, hexdump, markdown, one_line, visible, visible_json

HIDDEN = {
    "a right-to-left override": "\u202e",
    "an isolate": "\u2066",
    "a left-to-right mark": "\u200e",
    "a right-to-left mark": "\u200f",
    "an Arabic letter mark": "\u061c",
    "a byte order mark": "\ufeff",
    "a soft hyphen": "\u00ad",
    "a zero-width space": "\u200b",
    "a word joiner": "\u2060",
    "an invisible separator": "\u2063",
    "a tag": "\U000e0041",
    "a tag's end": "\U000e007f",
    "a Hangul filler": "\u3164",
    "an annotation": "\ufff9",
    "an escape": "\x1b",
    "a C1 control": "\x9b",
    "a line separator": "\u2028",
    "a lone surrogate": "\ud800",
    "a joiner in a word": "\u200d",
    "a non-joiner in a word": "\u200c",
    "a selector in a word": "\ufe0f",
    "a rare selector in a word": "\U000e0100",
}
SHAPED = {
    "a family": "👨\u200d👩\u200d👧",
    "a heart on fire": "❤\ufe0f\u200d🔥",
    "a skin tone": "👍🏽",
    "a key": "1\ufe0f\u20e3 and #\ufe0f\u20e3",
    "Persian": "می\u200cخواهم",  # noqa: RUF001
    "Hindi": "क\u094d\u200dष",
    "Sinhala": "ශ\u0dca\u200dරී",
    "Mongolian": "ᠠ\u180e\u1820 ᠭ\u180b",
    "a variant of a kanji": "葛\U000e0100",
    "accents and German": "Größe, cafe\u0301",
}


def by_name(cases: dict[str, str]):
    return [pytest.param(text, id=name) for name, text in cases.items()]


@pytest.mark.parametrize("character", by_name(HIDDEN))
def test_unsafe_characters_are_escaped_everywhere(character):
    for text in (f"pay{character}pal", character, f"{character}a", f"a{character}"):
        shown = visible(text)
        assert shown == text.replace(character, character.encode("unicode_escape").decode())
        assert shown.isascii()
        assert one_line(text).isascii()
        assert visible(markdown(text)) == markdown(text)


@pytest.mark.parametrize("text", by_name(SHAPED))
def test_emoji_and_scripts_that_need_joiners_stay_as_they_are(text):
    assert visible(text) == one_line(text) == text
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text
    assert visible_json(text) == text


@pytest.mark.parametrize(
    "text",
    ["é\u200d", "\u200dé", "é\u200d\u200dé", "é\ufe0f\ufe0f", "é\u202e\u200dé", "a\ufe0f\u200dé", "\u200d"],
)
def test_a_joiner_or_selector_in_an_invalid_position_is_unsafe(text):
    assert "\\u" in visible(text)


def test_a_stored_line_loses_invisible_characters_and_joins_white_space():
    assert one_line(" a\r\n\tb\u2028c\x1b[31m \ufeffto\u200bken ") == "a b c [31m token"


@given(st.text(st.characters()))
@example("\u00ad" * 3 + "é\u200dé")
def test_visible_text_hides_nothing_and_is_stable(text):
    for shown in (visible(text), one_line(text)):
        assert visible(shown) == shown
        shown.encode()
        for character in shown:
            assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
            assert character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u200b"


@given(st.binary(max_size=40))
def test_a_hexdump_is_printable_and_has_every_byte(data):
    lines = hexdump(data).splitlines()
    assert bytes.fromhex("".join(line[6:53] for line in lines)) == data
    assert [line[:4] for line in lines] == [f"{at:04x}" for at in range(0, len(data), 16)]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert "".join(line[55:] for line in lines) == "".join(
        chr(byte) if 32 <= byte < 127 else "." for byte in data
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.characters()), each),
)


@given(json_values, st.sampled_from([None, 2]))
@example({"\u202ea": "\x7f\x9f\U000e0041\u200b\ud800"}, 2)
def test_json_with_escapes_is_the_same_document(value, indent):
    text = visible_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(text) == value
    assert visible(text.replace("\n", "")) == text.replace("\n", "")


MARKUP = [
    "![i](http://127.0.0.1:9/x.png)",
    "<img src=http://127.0.0.1:9/x.png>",
    "[a]: http://evil.example",
    "http://evil.example/a",
    "see www.evil.example now",
    "WWW.evil.example",
    "someone@evil.example",
    "<http://evil.example>",
    "&#33;[i](http://127.0.0.1:9/x.png)",
    "a`b",
    "`",
    "``a```b`",
    "` ![i](x) `",
    "*a* _b_ ~~c~~ **d**",
    "# a",
    "- a",
    "1. a",
    "    a",
    "---",
    "```\na",
    "~~~",
    "> a",
    "a\\",
    "\\`![i](http://127.0.0.1:9/x.png)",
    " ",
    "  a ",
    "$a$",
]


def html_of(text: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_code_in_markdown(text):
    written = markdown(text)
    assert "\n" not in written
    assert re.fullmatch(r"<p><code>.*</code></p>\n", html_of(written)), html_of(written)


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1))
@example("`a")
@example("a`")
@example("``")
@example(" ")
def test_markdown_shows_the_same_text(text):
    [paragraph] = [token for token in MarkdownIt().parse(markdown(text)) if token.type == "inline"]
    [shown] = paragraph.children
    assert shown.type in ("text", "code_inline")
    assert shown.content == visible(text)


@pytest.mark.parametrize(
    "text",
    ["evt_0190a1b2-c3d4", "com.example.order.paid", "http_503", "http 503", "3 others", "/var/a-1.gz", ""],
)
def test_plain_words_are_written_unchanged(text):
    assert markdown(text) == text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (720, "12 min ago"),
        (7_200, "2 h ago"),
        (86_400, "24 h ago"),
        (5 * 86_400, "5 days ago"),
        (-180, "in 3 min"),
    ],
)
def test_ages_are_shown_in_common_units(seconds, said):
    assert ago(seconds) == said
