"""Suggestions for a mistyped word."""

import difflib
from collections.abc import Collection

_NAMED_AT_MOST = 10


_SUGGESTED_AT_MOST = 3
# Shorter words begin too many others.
_SHORTEST_BEGINNING = 3


def near(word: str, known: Collection[str]) -> list[str]:
    """Return up to three known words similar to this one, most similar first.

    A word that lacks its qualifier (``local`` for ``spool-endpoint/local``) or its end (``http_40``) is completed.
    """
    by_name = {each.rpartition("/")[2]: each for each in sorted(known, reverse=True)}
    completed = [by_name[word]] if word in by_name else []
    if len(word) >= _SHORTEST_BEGINNING:
        completed += sorted(each for each in known if each.startswith(word))
    similar = difflib.get_close_matches(word, known, n=_SUGGESTED_AT_MOST)
    similar += [by_name[name] for name in difflib.get_close_matches(word, by_name, n=_SUGGESTED_AT_MOST)]
    return list(dict.fromkeys(completed or similar))[:_SUGGESTED_AT_MOST]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the suffix of a message about an unknown word: similar words, or all known words if they are few."""
    if found := near(word, known):
        *others, last = found
        return f": did you mean {', '.join(others)} or {last}?" if others else f": did you mean {last}?"
    if 0 < len(known) <= _NAMED_AT_MOST:
        return f"; known: {', '.join(sorted(known))}"
    return ""


def no_such_endpoint(name: str, known: Collection[str]) -> str:
    """Return the message for an unknown endpoint, with similar names and the command that adds it."""
    text = f"no endpoint is named {name!r}{did_you_mean(name, known)}"
    if "/" in name:  # endpoints of custom block types are added only in the UI or by code
        return text
    return f"{text}{'' if text.endswith('?') else ';'} `resonant endpoint add {name} URL` adds it"
