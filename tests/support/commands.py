"""Commands that run in this process, in their own environment."""

import contextlib
import functools
import logging
import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from prefect.blocks.core import Block
from prefect.client import orchestration
from prefect.context import root_settings_context
from prefect.logging.handlers import set_api_log_sink
from typer import Typer, testing
from typer.testing import CliRunner

from resonant.cli import app

# Most commands take less time to run than to build.
testing._get_command = functools.cache(testing._get_command)
# Each client of Prefect loads all CA certificates. Share the TLS contexts: Prefect servers of tests use plain HTTP.
orchestration.ssl = SimpleNamespace(
    SSLContext=ssl.SSLContext,
    CERT_NONE=ssl.CERT_NONE,
    create_default_context=functools.cache(ssl.create_default_context),
)
_has_secrets = Block._field_has_secrets


@functools.cache
def _kind_has_secrets(kind: type[Block], field: str) -> bool:
    return _has_secrets(kind, field)


# Prefect makes the schema of a block again for each of its fields.
Block._field_has_secrets = lambda block, field: _kind_has_secrets(type(block), field)


def run_in_process(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    typed: str = "",
    *,
    program: Typer = app,
) -> subprocess.CompletedProcess[str]:
    """Run a command, by default of ``resonant``, as if in a process with this environment, working folder and standard input.

    Call it outside a running event loop: commands start their own.
    """
    with in_environment(environment, folder):
        result = CliRunner().invoke(program, list(arguments), input=typed, prog_name="resonant")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@contextlib.contextmanager
def in_environment(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Set the environment and the working folder of this process for the block."""
    with (
        patch.dict(os.environ, environment, clear=True),
        contextlib.chdir(folder),
        _private_files(),
        restored_logging(),
        root_settings_context(),
    ):
        yield


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def restored_logging() -> Iterator[None]:
    """Restore the loggers: a command silences Prefect for the rest of its process, and its handlers write to its output."""
    loggers = _loggers()
    handlers = {each: each.handlers[:] for each in loggers}
    filtered = (*loggers, *(handler for each in loggers for handler in each.handlers))
    filters = [(each, each.filters[:]) for each in filtered]
    levels = [(each, each.level) for each in loggers]
    try:
        yield
    finally:
        set_api_log_sink(None)
        for each, before in filters:
            each.filters[:] = before
        for each, level in levels:
            each.setLevel(level)
        for each in _loggers():
            each.handlers[:] = handlers.get(each, [])


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [
        root,
        *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)),
    ]
