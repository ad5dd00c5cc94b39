"""Globs, in Python and in SQL: ``*`` matches any text, ``?`` one character, and all else itself; case matters."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

WILDCARDS = frozenset("*?")


def any_glob(globs: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether at least one of these globs matches a text."""
    # For fnmatch, brackets are a set of characters.
    patterns = [translate(glob.replace("[", "[[]")) for glob in globs]
    pattern = re.compile("|".join(patterns or [r"(?!)"]))
    return lambda text: pattern.match(text) is not None


def glob_to_like(glob: str) -> str:
    """Return the glob as a pattern for LIKE with the escape character backslash."""
    escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
