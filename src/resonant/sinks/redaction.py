"""Removes secrets from text that is stored and shown: errors and the answers of receivers.

By value: the endpoint's secrets (``Redactor``). By pattern, since a receiver may repeat other secrets: text after ``Bearer``
or ``Basic``, text after a name like ``password``, ``api_key`` or ``token``, and the user and password in a URL
(``without_credentials``). Everything else is kept.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Self
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

import httpx

from resonant.display import one_line
from resonant.sinks.endpoint import Endpoint

MESSAGE_CHARACTERS = 300
EXCERPT_BYTES = 1024
# Of an answer, for its excerpt. All sends share one event loop, and redacting 64 KiB takes milliseconds.
EXAMINED_BYTES = 16 * 1024
# Minimum lengths. Shorter secrets would match ordinary words; a part of a path must be longer than most words.
_MIN_SECRET, _MIN_PATH_SECRET = 4, 8
# After = or a quote, any text is a value; after a plain colon, as in "invalid token: expired", only text that is not a word.
_NAMED = (
    r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|authorization|signature|credentials?)"
)
# At most 23, since 24 always match. Without this limit, a hostile answer full of names would be scanned once per name.
_LOOKS_RANDOM = r"(?=[^\s\"'<>,;]{0,23}(?:[\d=]|(?-i:[a-z][A-Z]))|[^\s\"'<>,;]{24})"
_WORD_ENDS = " \"'<>,;"
_CREDENTIALS = re.compile(
    rf"""
    (?P<before> \b(?:bearer|basic)\s+ {_LOOKS_RANDOM}
              | {_NAMED}\\?["']?\s?(?:=|:(?=\s?\\?["']))\s?\\?["']?
              | {_NAMED}:\s?{_LOOKS_RANDOM}
              | ://(?=[^\s/]+@)
    )
    (?P<value> (?<=://)[^\s/]+(?=@) | (?<=["'])[^"'\\]+ | [^\s"'<>,;&\\]+ )
    """,
    re.IGNORECASE | re.VERBOSE,
)

# Of a database or a broker, whose password may contain an unescaped @, / or ?. It always matches to the end: a text full of
# beginnings is scanned once.
_OTHER_URL = re.compile(r"\b(?!https?:|wss?:)([a-z][a-z0-9+.-]{0,15}://)([^\s\"'<>]+)", re.IGNORECASE)


class Redactor:
    """Removes secrets from text: an endpoint's by value, others by pattern."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Prepare to remove these secrets, except those of fewer than four characters, which would match ordinary words."""
        whole = {one_line(secret) for secret in secrets}
        self._secrets = sorted((s for s in whole if len(s) >= _MIN_SECRET), key=len, reverse=True)
        # Some JSON writers escape a slash as \/.
        forms = [re.escape(secret).replace("/", r"\\?/") for secret in self._secrets]
        self._pattern = re.compile("|".join(forms) or r"(?!)")

    @classmethod
    def of(cls, *endpoints: Endpoint, also: Iterable[str] = ()) -> Self:
        """Return a redactor for all secrets of these endpoints, such as the URL, header values and keys, and for others."""
        return cls([*also, *(secret for endpoint in endpoints for secret in _secrets_of(endpoint))])

    def line(self, text: str) -> str:
        """Return text on one line, without secrets."""
        return without_credentials(self._pattern.sub("***", one_line(text)))

    def message(self, error: BaseException) -> str:
        """Describe an error on one line, without secrets.

        Args:
            error: the error; its last explicit cause is described.

        Returns:
            The exception's type and text, at most 300 characters.
        """
        error = root_cause(error)
        text = one_line(f"{type(error).__name__}: {error}").removesuffix(":")
        return self.line(text)[:MESSAGE_CHARACTERS]

    def excerpt(self, answer: bytes | bytearray, *, is_whole: bool) -> str:
        """Return the beginning of an answer on one line, at most 1 KiB, without secrets.

        Args:
            answer: the part that was read.
            is_whole: whether the answer is complete; otherwise a partial secret at its end is removed too.
        """
        if not answer:
            return ""
        is_whole = is_whole and len(answer) <= EXAMINED_BYTES
        # Redact by value in all that is examined, before it is cut: collapsed white space can move any secret to the front.
        text = one_line(answer[:EXAMINED_BYTES].decode(errors="replace"))
        if not is_whole:
            text = text.rstrip("\ufffd ")  # a character that was cut
        text = (self._pattern if is_whole else self._pattern_at_the_end_of(text)).sub("***", text)
        # Redact by pattern only in the needed part, since that is far slower, and omit a last word that may be cut.
        begin = text[: 4 * EXCERPT_BYTES]
        if len(begin) < len(text):
            begin = begin[: max(EXCERPT_BYTES, *(begin.rfind(end) for end in _WORD_ENDS))]
        return without_credentials(begin).encode()[:EXCERPT_BYTES].decode(errors="ignore")

    def _pattern_at_the_end_of(self, text: str) -> re.Pattern[str]:
        """Return a pattern that matches secrets, and the beginnings of secrets at the end of this text."""
        begun = {end for secret in self._secrets if (end := _beginning_at_the_end(secret, text))}
        ends = sorted(begun, key=len, reverse=True)
        return re.compile("|".join([*(rf"{re.escape(end)}\Z" for end in ends), self._pattern.pattern]))


def _beginning_at_the_end(secret: str, text: str) -> str:
    """Return the longest beginning of a secret at the end of a text; empty if it has fewer than four characters."""
    lengths = range(min(len(secret) - 1, len(text)), _MIN_SECRET - 1, -1)
    return next((secret[:n] for n in lengths if text.endswith(secret[:n])), "")


def root_cause(error: BaseException) -> BaseException:
    """Return the last explicit cause of an error, which is the most specific one."""
    seen = {id(error)}  # `raise error from error` makes a cycle
    while isinstance(error.__cause__, Exception) and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def without_credentials(text: str) -> str:
    """Replace everything that looks like a credential with ``***``."""
    if "://" in text:
        text = _OTHER_URL.sub(_without_user, text)
    return _CREDENTIALS.sub(r"\g<before>***", text)


def _without_user(url: re.Match[str]) -> str:
    _, at, rest = url[2].rpartition("@")
    return f"{url[1]}***@{rest}" if at else url[0]


def basic_authorization(url: httpx.URL) -> str:
    """Return the user and password of a URL as the value of an ``Authorization`` header (RFC 7617)."""
    credentials = f"{url.username}:{url.password}".encode()
    return f"Basic {base64.b64encode(credentials).decode()}"


def _secrets_of(endpoint: Endpoint) -> Iterator[str]:
    url = httpx.URL(endpoint.url)
    parts = urlsplit(str(url))  # as it is sent
    user, at, _ = parts.netloc.rpartition("@")
    tokens = (part for part in parts.path.split("/") if len(part) >= _MIN_PATH_SECRET)
    whole = (str(url), str(url).replace(user + at, "", 1))
    of_query = [
        *_values_of(url),
        *(_values_of(httpx.URL(endpoint.oauth.token_url)) if endpoint.oauth else ()),
    ]
    for text in (*whole, user, *user.split(":", 1), parts.path, *tokens, *of_query):
        yield from (text, unquote(text), unquote_plus(text), quote(unquote(text), safe=""))
    if url.userinfo:
        yield basic_authorization(url).removeprefix("Basic ")
    for value in endpoint.headers.values():
        yield from (value, *value.split())
    for secret in endpoint.signing_secrets:
        yield from (secret, secret.partition("_")[2] or secret)
    if endpoint.proxy is not None and (proxy := httpx.URL(endpoint.proxy.url)).userinfo:
        user = proxy.userinfo.decode()
        for text in (endpoint.proxy.url, user, *user.split(":", 1)):
            yield from (text, unquote(text))
        yield basic_authorization(proxy).removeprefix("Basic ")
    if (certificate := endpoint.client_certificate) is not None:
        for pem in (certificate.chain, certificate.key):
            # A library may quote one line.
            yield from (pem, *(line for line in pem.splitlines() if not line.startswith("-----")))
    if (oauth := endpoint.oauth) is not None:
        secret = oauth.client_secret
        yield from (secret, quote(secret, safe=""), quote_plus(secret), oauth.basic)


def _values_of(url: httpx.URL) -> list[str]:
    query = urlsplit(str(url)).query  # as it is sent
    return [query, *(pair.partition("=")[2] for pair in query.split("&"))]
