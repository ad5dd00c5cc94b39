"""``python -m resonant.testing``: a receiver in its own process."""

import argparse
import asyncio
import contextlib
import os
import pkgutil
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn

from resonant.testing.actions import Action
from resonant.testing.certificates import FLAWS, Authority
from resonant.testing.journal import Received
from resonant.testing.receiver import Receiver

_VALID = "valid"
_FLAWS = {flaw.replace("_", "-"): flaw for flaw in FLAWS}
_LAST_PORT = 65535
_FAILED, _MISUSED = 1, 2
_SHOWN_BYTES = 200
_LAST_LINES_SECONDS = 2.0


class _CannotStart(Exception):
    """The receiver cannot start as requested; the message says why."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_MISUSED, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a receiver until SIGTERM or SIGINT. Print its URL, and then one line for each request."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.ca_file and not options.tls:
        parser.error("--ca-file needs --tls")
    try:
        with _printing() as show:
            receiver = Receiver(
                options.script,
                port=options.port,
                journal_path=options.journal,
                tls=_tls(options.tls, options.ca_file) if options.tls else None,
                connection=options.connection,
                on_received=show,
            )
            asyncio.run(_run(receiver))
    except _CannotStart as error:
        parser.exit(_FAILED, f"{parser.prog}: {error}\n")


@contextlib.contextmanager
def _printing() -> Iterator[Callable[[Received], None]]:
    """Yield a function that prints a request, in a thread: if nobody reads the output, requests are answered all the same."""
    received = SimpleQueue[Received | None]()

    def write() -> None:
        with contextlib.suppress(OSError):  # the reader has gone
            while (each := received.get()) is not None:
                os.write(
                    sys.stdout.fileno(), f"{_line(each)}\n".encode(sys.stdout.encoding, "backslashreplace")
                )

    writer = Thread(target=write, daemon=True)
    writer.start()
    try:
        yield received.put
    finally:
        received.put(None)
        writer.join(_LAST_LINES_SECONDS)


def _line(received: Received) -> str:
    """Return a request on one line: time, event, answer, data."""
    at = time.strftime("%H:%M:%S", time.localtime(received.received_at))
    event = f"{received.webhook_id or '-'}  {received.event_type or '-'}"
    answered = f"try {received.try_number} -> {received.status or received.action}"
    body = received.body[:_SHOWN_BYTES].decode(errors="replace")
    line = f"{at}  {event}  {answered}  {body}"
    # Escaped, since a request may contain control characters.
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


def _parser() -> argparse.ArgumentParser:
    kinds = [_VALID, *_FLAWS]
    parser = _Parser(prog="python -m resonant.testing", description="A scripted HTTP receiver.")
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="listen on this port of 127.0.0.1; 0 (the default) selects a free one",
    )
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="append each request to this file as a line of JSON"
    )
    parser.add_argument(
        "--script",
        type=_found,
        default="resonant.testing:always_ok",
        metavar="MODULE:NAME",
        help="a script or an action for each request",
    )
    parser.add_argument(
        "--connection",
        type=_found,
        metavar="MODULE:NAME",
        help="a connection script or an action for each connection, run before anything is read",
    )
    parser.add_argument(
        "--tls",
        choices=kinds,
        metavar="KIND",
        help=f"use TLS with a certificate of this kind: {', '.join(kinds)}; needs resonant[testing]",
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="write the CA certificate to this file, as PEM"
    )
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {_LAST_PORT}")
    return int(text)


def _found(name: str) -> Any:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be loaded: {error}") from None
    if not (callable(found) or isinstance(found, Action)):
        raise argparse.ArgumentTypeError(f"{name} is neither a script nor an action")
    return found


def _tls(certificate: str, ca_file: Path | None) -> ssl.SSLContext:
    with _starting():
        authority = Authority()
        if ca_file is not None:
            authority.write_to(ca_file)
        return authority.context(_FLAWS.get(certificate))


async def _run(receiver: Receiver) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        with _starting():  # only here: errors of a script keep their tracebacks
            await stack.enter_async_context(receiver)
        sys.stdout.write(f"{receiver.url}\n")
        sys.stdout.flush()
        await stop.wait()


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise _CannotStart(f"{error}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise _CannotStart(f"{where}{error.strerror}") from None


if __name__ == "__main__":
    main()
