"""Signing secrets of Standard Webhooks: shared secrets (``whsec_``, HMAC-SHA256) and Ed25519 private keys (``whsk_``)."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from resonant.display import counted
from resonant.errors import EndpointError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Scheme = Literal["hmac", "ed25519"]

# Standard Webhooks. A shorter secret can be guessed from one signature.
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64
_NEW_SECRET_BYTES = _SEED_BYTES = 32
_HMAC, _PRIVATE, _PUBLIC = "whsec_", "whsk_", "whpk_"


def signer(secret: str) -> Callable[[bytes], bytes]:
    """Return the function that signs a message with this secret: ``v1,`` or ``v1a,`` and base64.

    Raises:
        ValueError: the secret cannot be used; the text contains no part of it.
    """
    if secret.startswith(_PUBLIC):
        raise ValueError("a public key (whpk_) cannot sign: give the private key (whsk_)")
    if scheme_of(secret) == "ed25519":
        sign = _private_key(secret).sign
        return lambda signed: b"v1a," + base64.b64encode(sign(signed))
    if not (key := _decoded(secret, _HMAC)):
        raise ValueError(
            "a signing secret must be whsec_ and base64, or an Ed25519 private key, whsk_ and base64"
        )
    return lambda signed: b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))


def scheme_of(secret: str) -> Scheme:
    """Return how a secret signs."""
    return "ed25519" if secret.startswith(_PRIVATE) else "hmac"


def public_key(secret: str) -> str | None:
    """Return the public key (``whpk_``) of an Ed25519 key; None for a shared secret or an invalid key."""
    if scheme_of(secret) != "ed25519":
        return None
    try:
        return _PUBLIC + _encoded(_private_key(secret).public_key().public_bytes_raw())
    except ValueError:
        return None


def new_secret(scheme: Scheme) -> str:
    """Make a signing secret. An Ed25519 one is the seed and the public key, as other senders write it."""
    import secrets  # noqa: PLC0415 - only commands need it

    random = secrets.token_bytes(_NEW_SECRET_BYTES)
    if scheme == "hmac":
        return _HMAC + _encoded(random)
    public = _private_key(_PRIVATE + _encoded(random)).public_key().public_bytes_raw()
    return _PRIVATE + _encoded(random + public)


def problem_of_secret(secret: str) -> str | None:
    """Return the problem with the length of a shared secret, on one line without the secret; None if it is right."""
    size = len(_decoded(secret, _HMAC))
    if scheme_of(secret) == "ed25519" or _MIN_SECRET_BYTES <= size <= _MAX_SECRET_BYTES:
        return None
    return f"its signing secret has {counted(size, 'byte')}, not {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES}"


def check_new_secret(name: str, secret: str) -> None:
    """Refuse a new signing secret that is too short or too long. An existing one still signs.

    Raises:
        EndpointError: the message says how to make a secret.
    """
    if problem := problem_of_secret(secret):
        raise EndpointError(
            f"endpoint {name!r}: {problem}: `(printf whsec_; openssl rand -base64 32)` makes a new one"
        )


def _private_key(secret: str) -> "Ed25519PrivateKey":
    # Few endpoints have such a key, and the import takes longer than that of the sink.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    raw = _decoded(secret, _PRIVATE)
    seed, public = raw[:_SEED_BYTES], raw[_SEED_BYTES:]
    if len(raw) not in {_SEED_BYTES, 2 * _SEED_BYTES}:
        raise ValueError("an Ed25519 private key must be whsk_ and base64 of 32 or 64 bytes")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    if public and public != key.public_key().public_bytes_raw():
        raise ValueError("an Ed25519 private key contains a public key that does not belong to it")
    return key


def _decoded(secret: str, prefix: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
