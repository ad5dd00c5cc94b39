"""Text for terminals, logs and Prefect's UI: ages, numbers, and untrusted text without hidden characters or markup.

Event types, error texts and answers are untrusted. One list defines unsafe characters: controls, line ends, lone
surrogates, and Unicode's default-ignorable characters, which are invisible (bidirectional controls, zero-width spaces,
soft hyphens, tags).

Emoji, Persian and the scripts of India need joiners and variation selectors. So a selector is kept after a visible
non-ASCII character, and a joiner between two of them. Tags are always unsafe, since they can hide text; this breaks
the flags of England, Scotland and Wales.
"""

import re
from collections.abc import Iterable, Sequence

_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
# Default_Ignorable_Code_Point (Unicode 17) without the two sets below, plus the interlinear annotation marks.
_UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_SELECTORS = r"\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
_JOINERS = r"\u200c\u200d"
_INVISIBLE = re.compile(rf"[{_UNSEEN}{_SELECTORS}{_JOINERS}]")
_HIDDEN = re.compile(rf"[{_CONTROLS}{_UNSEEN}{_SELECTORS}{_JOINERS}]")
_SEEN = rf"[^\x00-\x7f{_CONTROLS}{_UNSEEN}{_SELECTORS}{_JOINERS}]"
# A keycap emoji is a digit, # or *, followed by a selector.
_IN_PLACE = re.compile(
    rf"(?:(?<={_SEEN})|(?<=[0-9#*]))[{_SELECTORS}]|(?:(?<={_SEEN})|(?<={_SEEN}[{_SELECTORS}]))[{_JOINERS}](?={_SEEN})"
)
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": _MINUTE, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}
_ROW_BYTES = 16
_BLANKS = re.compile(rf"[\s{_CONTROLS}]+")
# Text that Markdown leaves unchanged in any position: no markup characters, and nothing that becomes a link.
_WORDS = re.compile(r"(?!.*www\.)/?[a-z0-9]+(?:[ ._/-][a-z0-9]+)*", re.ASCII | re.IGNORECASE)

# A table cell with numbers or a time.
_FIGURE = re.compile(r"[0-9 ,.:%TZ-]*")


def visible(text: str) -> str:
    r"""Return text on one line, with escapes for unsafe characters (``\n``, ``\x1b``, ``\u202e``)."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_escape, text)


def visible_json(text: str) -> str:
    """Escape unsafe characters in JSON text, without changing the document's value."""
    return _HIDDEN.sub(_json_escape, text)


def one_line(text: str) -> str:
    """Return text on one line: white space and controls become a space, invisible characters are removed."""
    seen = text if text.isascii() else _INVISIBLE.sub(_if_in_place, text)
    return _BLANKS.sub(" ", seen).strip()


def markdown(text: str) -> str:
    """Return Markdown that shows text literally, on one line, without links, images, HTML or emphasis.

    Plain words are unchanged, since Prefect shows some cells as plain text. Everything else becomes a code span. Character
    references are unsafe: one of Prefect's UIs shows them undecoded; the other decodes them and then creates links.
    """
    shown = visible(text)
    if not shown or _WORDS.fullmatch(shown):
        return shown
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # Markdown strips one space at each end, unless the text is only spaces.
    is_stripped = shown.strip(" ") and (shown[0] in " `" or shown[-1] in " `")
    space = " " if is_stripped else ""
    return f"{fence}{space}{shown}{space}{fence}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown that shows every cell literally."""
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (header, ("---",) * len(header), *rows))


def _cell(cell: str) -> str:
    # Markdown splits rows at bars even within code, and the text may end in a backslash, so `\|` is not safe.
    return cell if _FIGURE.fullmatch(cell) else markdown(cell).replace("|", r"\x7c")


def hexdump(data: bytes) -> str:
    """Return lines of sixteen bytes: the position, the bytes in hexadecimal, and as ASCII where it can be printed."""
    rows = ((at, data[at : at + _ROW_BYTES]) for at in range(0, len(data), _ROW_BYTES))
    return "\n".join(f"{at:04x}  {row.hex(' '):<{3 * _ROW_BYTES}} {_printable(row)}" for at, row in rows)


def _printable(row: bytes) -> str:
    return "".join(chr(byte) if " " <= chr(byte) <= "~" else "." for byte in row)


def duration(seconds: float) -> str:
    """Return a duration in its largest unit: ``12 min``; 0 if it is negative."""
    size = max(0.0, seconds)
    if size < _MINUTE:
        return f"{size:.0f} s"
    if size < _HOUR:
        return f"{size / _MINUTE:.0f} min"
    return f"{size / _HOUR:.0f} h" if size < 2 * _DAY else f"{size / _DAY:.0f} days"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``90``, ``1.5``, ``90s``, ``5m``, ``24h`` or ``3d``.

    Raises:
        ValueError: not a duration.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a duration: give seconds or a unit, such as 90, 90s, 5m or 24h")
    return float(found[1]) * _UNIT_SECONDS[found[2]]


def ago(seconds: float) -> str:
    """Describe a past time, or a future one if ``seconds`` is negative: ``12 min ago``."""
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 event``, ``1,234 events``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str], most: int = 10) -> str:
    """List the first names, and the number of the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def _if_in_place(found: re.Match[str]) -> str:
    """Return the joiner or selector if its position is valid, otherwise an empty string."""
    return found[0] if _IN_PLACE.match(found.string, found.start()) else ""


def _escape(found: re.Match[str]) -> str:
    return _if_in_place(found) or found[0].encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character < " ":  # white space between values: JSON allows no control character within a string
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return _if_in_place(found) or "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
