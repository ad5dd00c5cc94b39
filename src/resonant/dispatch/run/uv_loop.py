"""uvloop's event loop, which a signal handler can end by an exception, as it can end asyncio's."""

import asyncio
from typing import Any

import uvloop


class UvLoop(uvloop.Loop):
    """Ends when a signal handler raises while the loop is idle.

    Prefect cancels a flow run by raising ``TerminationSignal``, which is no ``Exception``. uvloop would only log it.
    """

    _raised: BaseException | None = None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log the error in this context, or end the loop if it must not be caught."""
        error = context.get("exception")
        if error is None or isinstance(error, Exception | asyncio.CancelledError):
            super().call_exception_handler(context)
        else:
            self._raised = error
            self.stop()

    def run_forever(self) -> None:
        """Run until ``stop``, and raise what a signal handler raised."""
        super().run_forever()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised


class UvLoopPolicy(uvloop.EventLoopPolicy):  # type: ignore[misc]
    """Makes an ``UvLoop`` when a thread needs an event loop."""

    def new_event_loop(self) -> UvLoop:
        """Return a new event loop."""
        return UvLoop()
