"""The certificate with which Resonant identifies itself to an endpoint (mutual TLS)."""

import contextlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from resonant.errors import EndpointError

_SOON = timedelta(days=14)
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----")


class CertificateFacts(NamedTuple):
    """The subject and the validity of a certificate.

    Attributes:
        subject: its subject, as in ``CN=billing,O=Example``.
        begins, ends: when it is valid, with a time zone.
    """

    subject: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client certificate and its private key; its ``repr`` contains neither.

    Attributes:
        chain: the certificate and then those of its issuers, as PEM; line breaks may be missing, as after a paste into a form.
        key: the certificate's private key, as PEM without a passphrase.

    Raises:
        ValueError: the text continues "its client certificate ..." and contains no secret.
    """

    chain: str = field(repr=False)
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        if "ENCRYPTED" in self.key:
            raise ValueError("has a key with a passphrase: `openssl pkey -in KEY -out NEW` removes it")
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make a TLS context identify itself with this certificate."""
        if not (self.chain.strip() and self.key.strip()):
            raise ValueError("needs both a certificate and its key")
        try:
            with _readable(self.chain) as chain, _readable(self.key) as key:
                context.load_cert_chain(chain, key, password="")  # without it, OpenSSL asks the terminal
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError("does not belong to its key") from None
            raise ValueError(f"or its key cannot be used ({error.reason or 'not PEM'})") from None


def certificate_of(name: str, chain: str, key: str) -> ClientCertificate | None:
    """Return an endpoint's client certificate; None if chain and key are empty.

    Raises:
        EndpointError: they cannot be used; the text contains no secret.
    """
    try:
        return ClientCertificate(chain, key) if chain or key else None
    except ValueError as error:
        raise EndpointError(f"endpoint {name!r}: its client certificate {error}") from None


def facts_of(chain: str) -> CertificateFacts:
    """Return the subject and the validity of the first certificate of a chain.

    Raises:
        ValueError: as for ``ClientCertificate``.
    """
    from cryptography import x509  # noqa: PLC0415 - takes 50 ms, and few endpoints have a certificate

    try:
        found = x509.load_pem_x509_certificates(_wrapped(chain))[0]
    except ValueError:
        raise ValueError("is not PEM") from None
    return CertificateFacts(
        found.subject.rfc4514_string(), found.not_valid_before_utc, found.not_valid_after_utc
    )


def problem_of_end(chain: str, now: datetime) -> str | None:
    """Return advice about a certificate that expires within two weeks, or has expired; None for others, and without one."""
    try:
        ends = facts_of(chain).ends if chain else None
    except ValueError:
        return None  # such an endpoint cannot be used, which is reported elsewhere
    if ends is None or ends - now > _SOON:
        return None
    return f"its client certificate {'expired' if ends <= now else 'expires'} on {ends:%Y-%m-%d %H:%M} UTC: renew it"


def check_new_certificate(name: str, chain: str, now: datetime) -> None:
    """Refuse a new certificate that is not valid now. A saved one is still sent.

    Raises:
        EndpointError: the message says when it is valid.
    """
    try:
        facts = facts_of(chain)
    except ValueError as error:
        raise EndpointError(f"endpoint {name!r}: its client certificate {error}") from None
    if not facts.begins <= now < facts.ends:
        raise EndpointError(
            f"endpoint {name!r}: its client certificate ({facts.subject}) is not valid now, but from "
            f"{facts.begins:%Y-%m-%d %H:%M} to {facts.ends:%Y-%m-%d %H:%M} UTC: renew it"
        )


def _wrapped(pem: str) -> bytes:
    """Return PEM with its line breaks, and without the text around its blocks."""
    blocks = []
    for kind, content in _BLOCK.findall(pem):
        text = "".join(content.split())
        lines = (text[start : start + 64] for start in range(0, len(text), 64))
        blocks.append("\n".join((f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----\n")))
    return "".join(blocks).encode()


@contextlib.contextmanager
def _readable(pem: str) -> Iterator[str]:
    """Yield the path of an open file without a name: ``ssl`` reads files only, and nothing else may read a key."""
    # In memory on Linux.
    created = os.memfd_create("pem") if hasattr(os, "memfd_create") else None
    with tempfile.TemporaryFile() if created is None else open(created, "w+b") as file:  # noqa: PTH123 - a descriptor
        file.write(_wrapped(pem))
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
