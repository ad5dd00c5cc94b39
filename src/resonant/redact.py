"""What is secret, taken out of texts that are stored and shown: of errors, and of what a receiver answered.

By value: what is secret of the endpoint (``secrets_pattern``). By its looks, since a receiver may repeat secrets that are not
ours: what stands behind ``Bearer`` or ``Basic``, behind a name like ``password``, ``api_key`` or ``token``, and the user
and password in a URL (``without_credentials``). Whatever looks like none of these stays.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.sink import Endpoint

MESSAGE_CHARACTERS = 300
# Shorter ones would blot out ordinary words; a part of a path must look more like a token than like a word.
_MIN_SECRET, _MIN_PATH_SECRET = 4, 8
# Behind = or a quote anything is a value; behind a bare colon, as in "invalid token: expired", only what is no word.
_NAMED = (
    r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|authorization|signature|credentials?)"
)
_LOOKS_RANDOM = r"(?=[^\s\"'<>,;]*(?:[\d=]|(?-i:[a-z][A-Z]))|[^\s\"'<>,;]{24})"
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
# White space, control characters, what reorders or hides text, and lone surrogates.
_NOT_SHOWN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")


def safe_message(error: BaseException, *endpoints: Endpoint) -> str:
    """Say on one line what went wrong, fit to be stored and shown.

    Args:
        error: its explicit causes are followed, and the last one speaks.
        endpoints: whose URL, user, password, query, header values and signing secrets are replaced by ``***``, and with
            them what looks like anybody's credentials.

    Returns:
        The exception's type and text, at most 300 characters.
    """
    error = root_cause(error)
    text = one_line(f"{type(error).__name__}: {error}").removesuffix(":")
    return without_credentials(secrets_pattern(*endpoints).sub("***", text))[:MESSAGE_CHARACTERS]


def root_cause(error: BaseException) -> BaseException:
    """Follow the explicit causes of an error to the last, which says most precisely what went wrong."""
    seen = {id(error)}  # `raise error from error` makes a ring
    while isinstance(error.__cause__, Exception) and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def one_line(text: str) -> str:
    """Write a text on one line, without the characters that cannot be seen."""
    return _NOT_SHOWN.sub(" ", text).strip()


def without_credentials(text: str) -> str:
    """Replace by ``***`` what looks like a credential, whosever it is."""
    return _CREDENTIALS.sub(r"\g<before>***", text)


def secrets_pattern(*endpoints: Endpoint) -> re.Pattern[str]:
    """Make the pattern that matches each secret of these endpoints, in texts that ``one_line`` has been over."""
    secrets = {one_line(secret) for endpoint in endpoints for secret in _secrets_of(endpoint)}
    longest_first = sorted((s for s in secrets if len(s) >= _MIN_SECRET), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


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
