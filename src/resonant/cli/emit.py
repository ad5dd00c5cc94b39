"""``resonant emit``: store what is given, then emit what is due, and show what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant.cli import options, output

if TYPE_CHECKING:
    from prefect import State

    from resonant.cli.intake import Summary
    from resonant.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "emit",
        rich_help_panel=options.SEND,
        epilog="Example: resonant emit orders.jsonl --endpoint https://hooks.example.com/orders",
    )(emit)


@dataclass(frozen=True, slots=True)
class _Request:
    files: list[str]
    endpoint: str | None
    event_type: str | None
    policy: str | None
    max_attempts: int | None
    strict: bool
    allow_private: bool
    chunk_size: int


def emit(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="JSONL files; - is standard input.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_URL", help="An endpoint's name, or a URL, which is saved as one."),
    ] = None,
    event_type: options.EventType = None,
    policy: options.Policy = None,
    max_attempts: options.MaxAttempts = None,
    strict: options.Strict = False,
    chunk_size: options.ChunkSize = 0,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="With a URL: allow private addresses, such as 127.0.0.1."),
    ] = False,
) -> None:
    """Store the events of JSONL files, then emit what is due, here and now.

    Each delivery is a Prefect task run, retried as its policy says; what cannot be delivered ends in the dead-letter
    queue (`resonant dlq`), and is no failure of this command. Without a file it emits what is due, takes over what a
    lost worker left behind, and waits for what other workers hold. With --chunk-size it is several times as fast, and
    only deliveries that failed their first attempt have task runs of their own. Ctrl-C hands everything back; nothing is lost.
    """
    from resonant.cli.flow_runs import run_flow
    from resonant.cli.sources import check_readable
    from resonant.settings import load_settings
    from resonant.sink import Endpoint

    settings = load_settings()
    request = _Request(
        files=files or [],
        endpoint=endpoint
        if endpoint is None or options.is_url(endpoint)
        else options.endpoint_name(endpoint),
        event_type=event_type,
        policy=options.known_policy(policy, settings),
        max_attempts=max_attempts,
        strict=strict,
        allow_private=allow_private,
        chunk_size=chunk_size,
    )
    if request.files and endpoint is None:
        raise options.Misuse("--endpoint is missing: where shall the events of these files go?")
    if endpoint is not None and options.is_url(endpoint):
        # A URL that cannot be used is said at once, before a server is waited for.
        Endpoint(name="of --endpoint", url=endpoint, allow_private=allow_private)
    check_readable(request.files)
    bad_lines = 0

    async def start() -> State[None] | None:
        nonlocal bad_lines
        stored, state = await _emit(request, settings)
        bad_lines = stored.bad
        return state

    run_flow(settings, start)
    if bad_lines:
        raise typer.Exit(1)


async def _emit(request: _Request, settings: Settings) -> tuple[Summary, State[None] | None]:
    from blocks import load_endpoint
    from blocks.catalog import endpoint_for_url
    from flows.emit import emit_events
    from resonant.cli.enqueue import summary_line
    from resonant.cli.intake import Summary, store_files
    from resonant.cli.progress import polled_progress
    from resonant.configured import open_configured_store

    name = request.endpoint
    async with open_configured_store(settings, patient=True) as store:
        if name is not None:
            if options.is_url(name):
                name = await endpoint_for_url(name, allow_private=request.allow_private)
            (await load_endpoint(name)).open(name)
        stored = Summary()
        if request.files and name is not None:
            stored = await store_files(
                store,
                request.files,
                name,
                max_event_bytes=settings.max_event_bytes,
                event_type=request.event_type,
                policy=request.policy,
                max_attempts=request.max_attempts,
                strict=request.strict,
            )
            output.say(summary_line(stored, name))
            if request.strict and stored.bad:
                return stored, None
        for_run = {} if request.files else {"policy": request.policy, "max_attempts": request.max_attempts}
        async with polled_progress("emitting", lambda: store.unfinished(name)):
            # Prefect's overloads lose what a flow returns that is a coroutine function with a state.
            run: Any = emit_events(endpoint=name, chunk_size=request.chunk_size, return_state=True, **for_run)  # type: ignore[call-overload,unused-ignore]
            state: State[None] = await run
    return stored, state
