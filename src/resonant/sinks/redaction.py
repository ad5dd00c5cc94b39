"""What is secret, taken out of texts that are stored and shown: of errors, and of what a receiver answered.

By value: what is secret of the endpoint (``Redactor``). By its looks, since a receiver may repeat secrets that are not
ours: what stands behind ``Bearer`` or ``Basic``, behind a name like ``password``, ``api_key`` or ``token``, and the user
and password in a URL (``without_credentials``). Whatever looks like none of these stays.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import httpx

from resonant.display import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resonant.sinks.endpoint import Endpoint

MESSAGE_CHARACTERS = 300
# Shorter ones would blot out ordinary words; a part of a path must look more like a token than like a word.
_MIN_SECRET, _MIN_PATH_SECRET = 4, 8
# Behind = or a quote anything is a value; behind a bare colon, as in "invalid token: expired", only what is no word.
_NAMED = (
    r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|authorization|signature|credentials?)"
)
# No further than 23: from 24 on all is taken, and a hostile answer of nothing but names would be looked through for each.
_LOOKS_RANDOM = r"(?=[^\s\"'<>,;]{0,23}(?:[\d=]|(?-i:[a-z][A-Z]))|[^\s\"'<>,;]{24})"
_WORD_ENDS = " \"'<>,;"
_CREDENTIALS = re.compile(
    rf"""
    (?P<before> \b(?:bearer|basic)\s+ {_LOOKS_RANDOM}
              | {_NAMED}\\?["']?\s?(?:=|:(?=\s?\\?["']))\s?\\?["']?
              | {_NAMED}:\s?{_LOOKS_RANDOM}
              | ://(?=[^\s/@]+@)
    )
    (?P<value> (?<=://)[^\s/@]+ | (?<=["'])[^"'\\]+ | [^\s"'<>,;&\\]+ )
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Redactor:
    """Takes secrets out of texts: its own by value, and anybody's by their looks."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Prepare to take out these; those of less than four characters would blot out ordinary words, and stay."""
        whole = {one_line(secret) for secret in secrets}
        self._secrets = sorted((s for s in whole if len(s) >= _MIN_SECRET), key=len, reverse=True)
        # Some write JSON with \/ for a slash.
        forms = [re.escape(secret).replace("/", r"\\?/") for secret in self._secrets]
        self._pattern = re.compile("|".join(forms) or r"(?!)")

    @classmethod
    def of(cls, *endpoints: Endpoint) -> Self:
        """Make the one for the URL, user, password, query, header values and signing secrets of these endpoints."""
        return cls(secret for endpoint in endpoints for secret in _secrets_of(endpoint))

    def line(self, text: str) -> str:
        """Write a text on one line without what is secret."""
        return without_credentials(self._pattern.sub("***", one_line(text)))

    def message(self, error: BaseException) -> str:
        """Describe an error on one line, without secrets.

        Args:
            error: the last of its explicit causes is described.

        Returns:
            The exception's type and text, at most 300 characters.
        """
        error = root_cause(error)
        text = one_line(f"{type(error).__name__}: {error}").removesuffix(":")
        return self.line(text)[:MESSAGE_CHARACTERS]

    def excerpt(self, answer: bytes | bytearray, size: int, *, is_whole: bool) -> str:
        """Return the beginning of an answer, on one line without what is secret.

        Args:
            answer: what was read of it.
            size: so many bytes are returned at most.
            is_whole: False where it ends early; then what it ends with may be the beginning of a secret, and goes too.
        """
        # All of it by value, before anything is cut: white space that becomes one space moves any secret to the front.
        text = one_line(answer.decode(errors="replace"))
        if not is_whole:
            text = text.rstrip("\ufffd ")  # a character that was cut in two
        text = (self._pattern if is_whole else self._pattern_at_the_end_of(text)).sub("***", text)
        # By looks no more than needed, as that takes far longer; nor a last word of which the cut may have left a part.
        begin = text[: 4 * size]
        if len(begin) < len(text):
            begin = begin[: max(size, *(begin.rfind(end) for end in _WORD_ENDS))]
        return without_credentials(begin).encode()[:size].decode(errors="ignore")

    def _pattern_at_the_end_of(self, text: str) -> re.Pattern[str]:
        """Return what matches the secrets, and before them the beginnings of secrets that this text ends with."""
        begun = {end for secret in self._secrets if (end := _beginning_at_the_end(secret, text))}
        ends = sorted(begun, key=len, reverse=True)
        return re.compile("|".join([*(rf"{re.escape(end)}\Z" for end in ends), self._pattern.pattern]))


def _beginning_at_the_end(secret: str, text: str) -> str:
    """Return the longest beginning of a secret with which a text ends; empty where there is none of four characters."""
    lengths = range(min(len(secret) - 1, len(text)), _MIN_SECRET - 1, -1)
    return next((secret[:n] for n in lengths if text.endswith(secret[:n])), "")


def root_cause(error: BaseException) -> BaseException:
    """Follow the explicit causes of an error to the last, which says most precisely what went wrong."""
    seen = {id(error)}  # `raise error from error` makes a ring
    while isinstance(error.__cause__, Exception) and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def without_credentials(text: str) -> str:
    """Replace by ``***`` what looks like a credential, whosever it is."""
    return _CREDENTIALS.sub(r"\g<before>***", text)


def basic_authorization(url: httpx.URL) -> str:
    """Write the user and password of a URL as the value of an ``Authorization`` header (RFC 7617)."""
    credentials = f"{url.username}:{url.password}".encode()
    return f"Basic {base64.b64encode(credentials).decode()}"


def _secrets_of(endpoint: Endpoint) -> Iterator[str]:
    url = httpx.URL(endpoint.url)
    parts = urlsplit(str(url))  # as it is sent
    user, at, _ = parts.netloc.rpartition("@")
    values = (pair.partition("=")[2] for pair in parts.query.split("&"))
    tokens = (part for part in parts.path.split("/") if len(part) >= _MIN_PATH_SECRET)
    whole = (str(url), str(url).replace(user + at, "", 1))
    for text in (*whole, user, *user.split(":", 1), parts.path, *tokens, parts.query, *values):
        yield from (text, unquote(text), unquote_plus(text), quote(unquote(text), safe=""))
    if url.userinfo:
        yield basic_authorization(url).removeprefix("Basic ")
    for value in endpoint.headers.values():
        yield from (value, *value.split())
    for secret in endpoint.signing_secrets:
        yield from (secret, secret.removeprefix("whsec_"))
