"""The receiver: a server that performs a script's actions, and keeps a journal of the requests."""

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self, TextIO

from resonant.testing.actions import Action, respond
from resonant.testing.journal import Received, Request
from resonant.testing.scripts import Script, always_ok
from resonant.testing.wire import BadRequest, read_request

ConnectionScript = Callable[[int], Action | None]

_MAX_HEAD_BYTES = 256 * 1024
_BACKLOG = 1024


class Receiver:
    """The scripted receiver; use it as an async context manager.

    Invalid HTTP is answered with 400, and neither journalled nor passed to the script.

    Attributes:
        journal: the received requests, in order.
        accepted: the number of accepted connections.

    Raises:
        Exception: an error of a script or an action; raised at the end of the context, so that it is not mistaken for a
            fault.
    """

    def __init__(
        self,
        script: Script | Action = always_ok,
        *,
        port: int = 0,
        journal_path: Path | str | None = None,
        tls: ssl.SSLContext | None = None,
        connection: ConnectionScript | Action | None = None,
        on_received: Callable[[Received], None] | None = None,
    ) -> None:
        """Prepare a receiver; ``async with`` makes it listen.

        Args:
            script: chooses an action for each request, or is the action for all requests.
            port: the port on 127.0.0.1; 0 selects a free one.
            journal_path: a file to which each request is appended as a line of JSON before it is answered.
            tls: the context for TLS; the URL is then https.
            connection: chooses an action for each connection, given its number from 1, or is the action for all. It runs
                before anything is read; None lets the script choose.
            on_received: called with each request, before it is answered.
        """
        self.journal: list[Received] = []
        self.accepted = 0
        self._script: Script = (lambda _: script) if isinstance(script, Action) else script
        self._connection: ConnectionScript = connection if callable(connection) else lambda _: connection
        self._port = port
        self._journal_path = journal_path
        self._journal_file: TextIO | None = None
        self._tls = tls
        self._on_received = on_received
        self._tries: Counter[str] = Counter()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._failures: list[Exception] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The receiver's URL, without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        if self._journal_path is not None:
            self._journal_file = Path(self._journal_path).open("a")  # noqa: SIM115, ASYNC230 - open until __aexit__
        try:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self._port, ssl=self._tls, limit=_MAX_HEAD_BYTES, backlog=_BACKLOG
            )
        except BaseException:
            self._close_journal()
            raise
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._server is not None  # noqa: S101 - __aenter__ has set it
        self._server.close()
        connections = dict(self._connections)
        for task, writer in connections.items():
            # Before Python 3.11.4, a lost TLS connection raises this error.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
            task.cancel()
        waits = [writer.wait_closed() for writer in connections.values()]
        await asyncio.gather(*connections, *waits, return_exceptions=True)
        await self._server.wait_closed()
        self._close_journal()
        if self._failures and error is None:
            raise self._failures[0]

    # Not a coroutine function: the streams module would own its task, and log an error when it is cancelled.
    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(self.accepted, reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if welcome := self._connection(number):
                await welcome.perform(reader, writer)
            while not writer.is_closing():
                request = self._count(*await read_request(reader))
                action = self._script(request)
                self._record(request, action)
                await action.perform(reader, writer)
                if request.headers.get("connection", "").lower() == "close":
                    writer.close()
        except BadRequest as error:
            # The client's fault, not the script's.
            await respond(400, {"connection": "close"}, f"{error}\n".encode()).perform(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client disconnected, or violated TLS
        except Exception as failure:  # noqa: BLE001 - a broken script must fail its test
            self._failures.append(failure)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    def _close_journal(self) -> None:
        if self._journal_file is not None:
            self._journal_file.close()

    def _count(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Request:
        webhook_id = headers.get("webhook-id", "")
        self._tries[webhook_id] += 1
        return Request(webhook_id, self._tries[webhook_id], method, path, headers, body, time.time())

    def _record(self, request: Request, action: Action) -> None:
        received = Received(**asdict(request), action=action.name, status=action.status)
        self.journal.append(received)
        if self._on_received is not None:
            self._on_received(received)
        if self._journal_file is not None:
            self._journal_file.write(received.to_json() + "\n")
            self._journal_file.flush()
