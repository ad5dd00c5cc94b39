"""uvloop's event loop, which a signal handler can end by an exception, as it can end asyncio's."""

import asyncio
from typing import Any

import uvloop


class UvLoop(uvloop.Loop):
    """Ends when a signal handler raises while the loop is idle.

    Prefect cancels a flow run by raising ``TerminationSignal``. It derives from ``BaseException``, and an idle uvloop only logs it.
    """

    _raised: BaseException | None = None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log an error. Stop the loop for an error of a callback or a signal handler that is no ``Exception``."""
        error = context.get("exception")
        # Errors of tasks that nobody awaits have no handle; asyncio only logs these, too.
        if "handle" not in context or isinstance(error, Exception | asyncio.CancelledError):
            super().call_exception_handler(context)
        elif self._raised is None:
            self._raised = error
            self.stop()

    def run_forever(self) -> None:
        """Run until ``stop``, and raise the exception of the signal handler."""
        try:
            super().run_forever()
        finally:
            raised, self._raised = self._raised, None
        if raised is not None:
            raise raised


class UvLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes an ``UvLoop`` when a thread needs an event loop."""

    def new_event_loop(self) -> UvLoop:
        """Return a new event loop."""
        return UvLoop()
