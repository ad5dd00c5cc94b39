"""``resonant emit``: store events, send them and report their outcome."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import output
from resonant.cli import completion, options

if TYPE_CHECKING:
    from prefect import State

    from resonant.cli.intake import Summary
    from resonant.dispatch.tracking import Tracker
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
    as_json: bool
    verbose: bool


def emit(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="JSONL files; - is standard input.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_URL",
            help="An endpoint's name, or a URL to save as an endpoint.",
            autocompletion=completion.endpoints,
        ),
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
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Store the events of JSONL files, send them, and report their outcome.

    The command waits until each of its events is delivered, a dead letter, or parked (its retry is due in more than 30
    seconds). Another process, such as the drain of `resonant up`, may send it. If any become dead letters, or the
    endpoint is paused, the exit code is 1 and a message says what to do. Ctrl-C returns unsent deliveries to the store;
    nothing is lost.

    Each delivery is a Prefect task run, retried according to its policy. --chunk-size is several times faster: many
    deliveries share one task run, and only dead letters get their own.

    Without files, the command sends all due deliveries, takes over those of lost workers, and waits for those leased by
    other workers. It names the endpoints whose gates hold due deliveries, with the reason and the next step.

    --json prints stored, known, bad, delivered, delivered_before (by an earlier run), retried, parked, held,
    dead_letter, by_reason, purged and unfinished. Without files: delivered, retried, parked, dead_letter, by_reason, lost
    and held.
    """
    from resonant.cli.flow_runs import run_flow
    from resonant.cli.sources import check_readable
    from resonant.errors import EndpointError
    from resonant.settings import load_settings
    from resonant.sinks.endpoint import Endpoint

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
        as_json=as_json,
        verbose=verbose,
    )
    if request.files and endpoint is None:
        raise options.Misuse("--endpoint is missing: events from files need an endpoint")
    if endpoint is not None and options.is_url(endpoint):
        # Report an unusable URL before starting a server.
        try:
            Endpoint(name="", url=endpoint, allow_private=allow_private)
        except EndpointError as error:
            problem = str(error).removeprefix("endpoint '': ")
            raise options.Misuse(f"--endpoint: {problem}") from None
    check_readable(request.files)
    emitted: _Emitted | None = None

    async def start() -> State[Any] | None:
        nonlocal emitted
        emitted = await _emit(request, settings)
        return emitted.state

    state = run_flow(settings, start, verbose=verbose)
    if emitted is not None:
        _print_outcomes(emitted, state, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Emitted:
    """The stored events, their outcomes (None without files) and the flow's final state (None if it did not run).

    Without files, ``paused`` is how many due deliveries each paused endpoint holds.
    """

    endpoint: str | None
    stored: Summary
    tracker: Tracker | None
    state: State[Any] | None
    paused: dict[str, int] = field(default_factory=dict)


def _print_outcomes(emitted: _Emitted, state: State[Any], *, as_json: bool) -> None:
    from resonant.cli.sending import print_outcomes, say_paused

    stored, tracker = emitted.stored, emitted.tracker
    if tracker is not None:
        counts: dict[str, object] = {"stored": stored.stored, "known": stored.known, "bad": stored.bad}
        print_outcomes(tracker, str(tracker.outcomes), counts, endpoint=emitted.endpoint, as_json=as_json)
    elif as_json:
        output.write(output.to_json(state.result()) + "\n")
    else:
        output.write_paragraph(str(state.message), indent=2)
    for name, held in emitted.paused.items():
        output.flush()
        say_paused(name, held)
    if stored.bad or emitted.paused:
        raise typer.Exit(1)


async def _emit(request: _Request, settings: Settings) -> _Emitted:
    import asyncio

    from blocks import load_endpoint
    from blocks.catalog import endpoint_for_url
    from resonant.cli.enqueue import summary_line
    from resonant.cli.intake import Summary, store_files
    from resonant.cli.progress import shown_until_the_end
    from resonant.cli.sending import tracked
    from resonant.configured import open_configured_store
    from resonant.dispatch.tracking import Tracker
    from resonant.store.views.endpoint_status import governed

    name = request.endpoint
    async with open_configured_store(settings, patient=True) as store:
        if name is not None:
            if options.is_url(name):
                name = await endpoint_for_url(name, allow_private=request.allow_private)
            (await load_endpoint(name)).open(name)
        if not request.files or name is None:
            before = await store.unfinished(name)

            async def look() -> tuple[int, str]:
                return max(0, before - await store.unfinished(name)), ""

            try:
                async with shown_until_the_end("emitting", before, look, hidden=request.verbose):
                    state = await _run(request, name)
            except asyncio.CancelledError as stop:
                waiting = output.counted(await store.unfinished(name), "delivery waits", "deliveries wait")
                stop.args = (
                    f"interrupted: {waiting}: a running drain or the next `resonant emit` sends them",
                )
                raise
            gates = await store.read(governed, now=store.clock())
            paused = {gate.endpoint: held for gate, held in gates if held and gate.state == "paused"}
            of_name = {each: held for each, held in paused.items() if name in (None, each)}
            return _Emitted(name, Summary(), None, state, of_name)
        tracker, delivery_ids = Tracker(store), array("q")
        stored = await store_files(
            store,
            request.files,
            name,
            max_event_bytes=settings.max_event_bytes,
            event_type=request.event_type,
            policy=request.policy,
            max_attempts=request.max_attempts,
            strict=request.strict,
            delivery_ids=delivery_ids,
        )
        output.say(summary_line(stored, name))
        if request.strict and stored.bad:
            return _Emitted(name, stored, None, None)
        tracker.add(delivery_ids)
        goes_on = f"a running drain or the next `resonant emit --endpoint {name}` sends them"
        async with tracked(tracker, "emitting", hidden=request.verbose, goes_on=goes_on):
            state = await _run(request, name)
    return _Emitted(name, stored, tracker, state)


async def _run(request: _Request, endpoint: str | None) -> State[Any]:
    from flows.emit import emit_events

    for_run = {} if request.files else {"policy": request.policy, "max_attempts": request.max_attempts}
    # Prefect's overloads do not cover a coroutine flow with return_state.
    run: Any = emit_events(endpoint=endpoint, chunk_size=request.chunk_size, return_state=True, **for_run)  # type: ignore[call-overload,unused-ignore]
    state: State[Any] = await run
    return state
