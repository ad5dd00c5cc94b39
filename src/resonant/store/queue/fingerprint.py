"""Fingerprints of failures; failures with the same cause have the same fingerprint."""

import hashlib
import re

# The start of an id, which may follow the underscore of a prefix, as in evt_0193c5c2.
_APART = r"(?<![^\W_])"
_VARIABLE_PARTS = (
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(rf"{_APART}[0-9a-f]{{8}}-(?:[0-9a-f]{{4}}-){{3}}[0-9a-f]{{12}}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "<address>"),
    (
        re.compile(r"(?<![\w:])(?=[0-9a-f:]*::|(?:[0-9a-f]+:){7})[0-9a-f:]{3,}(?![\w:])", re.IGNORECASE),
        "<address>",
    ),
    (
        re.compile(rf"0x[0-9a-f]+|{_APART}(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{{8,}}\b", re.IGNORECASE),
        "<hex>",
    ),
    (re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\""), "<text>"),
    (re.compile(r"\d+(?:\.\d+)?"), "<n>"),
)


def normalised(message: str) -> str:
    """Replace the variable parts of a message (URLs, ids, times, addresses, quoted text, numbers) with placeholders."""
    before = None
    # Repeat until nothing changes, so that the function is idempotent: a replaced part may have hidden another.
    while message != before:
        before = message
        for pattern, placeholder in _VARIABLE_PARTS:
            message = pattern.sub(placeholder, message)
    return message


def fingerprint(endpoint: str, code: str | None, message: str | None) -> str:
    """Return a hash of endpoint, code and normalised message, as 12 hex digits."""
    parts = "\x00".join((endpoint, code or "", normalised(message or "")))
    return hashlib.sha256(parts.encode(errors="backslashreplace")).hexdigest()[:12]
