"""Show or hide Prefect's log."""

import logging

from resonant.local.compatibility import SERVICE_LOGGERS, send_logs_quietly

# Prefect's client reports lost connections under these names too.
_OTHER_LOGGERS = ("websockets.client", *SERVICE_LOGGERS)


def show_prefect_log(*, verbose: bool) -> None:
    """Show Prefect's log on standard error if ``verbose``; otherwise hide it. The Prefect UI has it in any case.

    The log would break the progress bar. If the server becomes unreachable, the log fills with tracebacks, whereas the
    command prints one line.
    """
    from prefect import flow  # noqa: F401 - sets up Prefect's log handlers, once

    send_logs_quietly()
    # Prefect's internal loggers have separate handlers.
    for name in (None, "prefect._internal"):
        for handler in logging.getLogger(name).handlers:
            handler.removeFilter(_is_not_of_prefect)
            if not verbose:
                handler.addFilter(_is_not_of_prefect)


def hide_client_log() -> None:
    """Hide the log of Prefect's client in a process that runs no flow, without importing Prefect.

    It lasts until Prefect sets up its log, as it does when it imports flows or looks up a block type.
    """
    for name in ("prefect", *_OTHER_LOGGERS):
        # Python prints the warnings of a logger that has no handler.
        logging.getLogger(name).addHandler(logging.NullHandler())


def _is_not_of_prefect(record: logging.LogRecord) -> bool:
    return not (record.name.startswith("prefect") or record.name in _OTHER_LOGGERS)
