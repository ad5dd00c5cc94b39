"""Text as people see it, on a terminal, in a log and in Prefect's UI: nothing hidden, nothing reordered, no markup.

Event types, error texts and answers are somebody else's text. One list says which characters never get through: controls, line
ends, lone surrogates, and what Unicode calls default-ignorable, which a reader cannot see (bidirectional controls, zero-width
spaces, soft hyphens, tags). Of the latter a joiner and a variation selector stay where they shape what is seen: emoji, Persian
and the scripts of India need them. So they stay behind a visible character beyond ASCII, a joiner only between two of these.
The flags of England, Scotland and Wales are written with tags, and are not worth a channel for hidden text.
"""

from __future__ import annotations

import re

_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
# Default_Ignorable_Code_Point (Unicode 17) less the two below, and the marks of interlinear annotations.
_UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_SELECTORS = r"\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
_JOINERS = r"\u200c\u200d"
_INVISIBLE = re.compile(rf"[{_UNSEEN}{_SELECTORS}{_JOINERS}]")
_HIDDEN = re.compile(rf"[{_CONTROLS}{_UNSEEN}{_SELECTORS}{_JOINERS}]")
_SEEN = rf"[^\x00-\x7f{_CONTROLS}{_UNSEEN}{_SELECTORS}{_JOINERS}]"
# An emoji of a key is a digit, # or *, with a selector.
_IN_PLACE = re.compile(
    rf"(?:(?<={_SEEN})|(?<=[0-9#*]))[{_SELECTORS}]|(?:(?<={_SEEN})|(?<={_SEEN}[{_SELECTORS}]))[{_JOINERS}](?={_SEEN})"
)
_BLANKS = re.compile(rf"[\s{_CONTROLS}]+")
# What Markdown takes for words in any place: no marks that could pair, no address that it would make a link of.
_WORDS = re.compile(r"(?!.*www\.)/?[a-z0-9]+(?:[ ._/-][a-z0-9]+)*", re.ASCII | re.IGNORECASE)


def visible(text: str) -> str:
    r"""Write a text on one line, with escapes for what is obeyed or hidden (``\n``, ``\x1b``, ``\u202e``)."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_escape, text)


def visible_json(text: str) -> str:
    """Escape in a JSON text what is obeyed or hidden; it stays the same document."""
    return _HIDDEN.sub(_json_escape, text)


def one_line(text: str) -> str:
    """Write a text on one line: white space and controls become a space, what is hidden goes."""
    seen = text if text.isascii() else _INVISIBLE.sub(_if_in_place, text)
    return _BLANKS.sub(" ", seen).strip()


def markdown(text: str) -> str:
    """Write a text as Markdown that shows it as it is, on one line: it makes no link, image, HTML or emphasis.

    Words stay as they are, for Prefect shows some cells as plain text; all else becomes a code span. That alone is safe in both
    of Prefect's UIs: one shows a character reference as it is written, the other makes a link of it once it is decoded.
    """
    shown = visible(text)
    if not shown or _WORDS.fullmatch(shown):
        return shown
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown[0] in " `" or shown[-1] in " `" else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _if_in_place(found: re.Match[str]) -> str:
    """Return a joiner or a selector that shapes what is seen; nothing for all else."""
    return found[0] if _IN_PLACE.match(found.string, found.start()) else ""


def _escape(found: re.Match[str]) -> str:
    return _if_in_place(found) or found[0].encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character < " ":  # between values; within a text JSON allows none
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return _if_in_place(found) or "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
