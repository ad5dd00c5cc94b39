"""Valid and invalid certificates, for receivers that use TLS."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

Flaw = Literal["expired", "not_yet_valid", "wrong_name", "self_signed"]
FLAWS: tuple[Flaw, ...] = get_args(Flaw)


class Authority:
    """A certificate authority for one test; requires ``pip install 'resonant[testing]'``.

    Its certificates are for 127.0.0.1::

        authority = Authority()
        async with Receiver(tls=authority.context("expired")) as receiver:
            endpoint = Endpoint("orders", receiver.url, ca_file=authority.write_to(path), allow_private=True)
    """

    def __init__(self) -> None:
        # Imported here, since the rest of resonant.testing does not need trustme.
        try:
            import trustme  # noqa: PLC0415
        except ImportError:
            raise ImportError(
                "certificates need the package trustme: pip install 'resonant[testing]'"
            ) from None

        self._authority = trustme.CA()
        self._stranger = trustme.CA()

    def write_to(self, path: Path) -> str:
        """Write the authority's own certificate as PEM, for clients to trust, and return the path."""
        self._authority.cert_pem.write_to_path(str(path))
        return str(path)

    def context(self, flaw: Flaw | None = None) -> ssl.SSLContext:
        """Return a TLS context for a receiver.

        Args:
            flaw: the flaw of the certificate; None for a valid one, which clients that trust this authority accept.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if flaw == "self_signed":
            # An authority's own certificate is self-signed.
            with (
                self._stranger.cert_pem.tempfile() as certificate,
                self._stranger.private_key_pem.tempfile() as key,
            ):
                context.load_cert_chain(certificate, key)
            return context
        name = "wrong.example" if flaw == "wrong_name" else "127.0.0.1"
        begin = datetime.now(UTC) + timedelta(days={"expired": -366, "not_yet_valid": 1}.get(flaw or "", -1))
        issued = self._authority.issue_cert(name, not_before=begin, not_after=begin + timedelta(days=365))
        issued.configure_cert(context)
        return context
