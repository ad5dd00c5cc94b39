"""Reads the archives of purges."""

import json
import zlib
from pathlib import Path
from typing import Any


def read_documents(path: Path) -> list[dict[str, Any]]:
    """Return the complete documents of an archive; a killed purge may have left an incomplete end."""
    return [json.loads(line) for line in complete_lines(path)[0]]


def complete_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the complete lines of an archive, and the incomplete rest."""
    data, torn = path.read_bytes(), b""
    if path.suffix == ".gz":
        data, torn = _inflated(data)
    *lines, rest = data.split(b"\n")
    return lines, rest + torn


def _inflated(data: bytes) -> tuple[bytes, bytes]:
    """Return the complete members, inflated, and the rest as it is."""
    whole = b""
    while data:
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            member = inflate.decompress(data)
        except zlib.error:
            return whole, data
        if not inflate.eof:
            return whole, data
        whole, data = whole + member, inflate.unused_data
    return whole, b""
