"""``resonant emit``: store events, send them and report their outcome."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import CommandStore, command_store
from resonant.cli.send.enqueue import summary_line
from resonant.display import counted
from resonant.errors import EndpointError

if TYPE_CHECKING:
    from prefect import State

    from resonant.cli.send.files import Summary
    from resonant.dispatch.limits import Lane
    from resonant.dispatch.tracking import Tracker
    from resonant.store import WorkerStore


_GOES_ON = "a running drain or the next `resonant emit` sends them"


def emit(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="JSONL files; - is standard input.")
    ] = None,
    endpoint: Annotated[
        str | None,
        options.endpoint_option(
            "An endpoint's name, or a URL to save as an endpoint; without it, files are routed by subscriptions.",
            metavar="NAME_OR_URL",
        ),
    ] = None,
    event_type: options.EventType = None,
    policy: options.Policy = None,
    max_attempts: options.MaxAttempts = None,
    strict: options.Strict = False,
    allow_unrouted: options.AllowUnrouted = False,
    lane: options.SendingLane = "auto",
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="With a URL: allow private addresses, such as 127.0.0.1."),
    ] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Store the events of JSONL files, send them, and report their outcome. The lines are those of `resonant enqueue`.

    The command waits until each of its events is delivered, a dead letter, parked (its retry is due in more than 30 seconds), or
    held (its endpoint is paused, or has been down for more than 30 seconds). Another process, such as the drain of `resonant up`,
    may send them. If an event becomes a dead letter, or the endpoint is paused, the exit code is 1, and a message says what to do.
    Ctrl-C returns unsent deliveries to the store; nothing is lost.

    Each delivery is a Prefect task run, retried according to its policy. Beyond 100 deliveries per second, many share one
    task run, and only dead letters get their own; --lane changes that.

    Without files, the command sends all due deliveries, takes over those of lost workers, and waits for those leased by
    other workers. It names the endpoints whose gates hold due deliveries, with the reason and the next step.

    --json prints stored, known, erased, bad, dropped_traces, unrouted, by_endpoint, delivered, delivered_before (by an earlier run),
    retried, parked, held, dead_letter, by_reason, purged and unfinished. Without files: delivered, retried, parked,
    dead_letter, by_reason, lost and held.
    """
    from resonant.cli.send.sources import check_readable

    with command_store(patient=True) as store:
        if endpoint is not None and not options.is_url(endpoint):
            endpoint = options.endpoint_name(endpoint)
        policy = options.known_policy(policy, store.settings)
        if files and endpoint is None and not allow_unrouted:
            name_checks.check_routing(store)
        if endpoint is not None and options.is_url(endpoint):
            _check_url(endpoint, allow_private=allow_private)
        check_readable(files or [])
        emission = _Emission(store, endpoint, allow_private, lane, as_json, verbose)
        if files:
            emission.of_files(
                files,
                event_type=event_type,
                policy=policy,
                max_attempts=max_attempts,
                strict=strict,
                allow_unrouted=allow_unrouted,
            )
        else:
            emission.of_due_deliveries(policy, max_attempts)


def _check_url(url: str, *, allow_private: bool) -> None:
    """Report an unusable URL before a server is started."""
    from resonant.sinks.endpoint import Endpoint

    try:
        Endpoint(name="", url=url, allow_private=allow_private)
    except EndpointError as error:
        problem = str(error).removeprefix("endpoint '': ")
        raise options.Misuse(f"--endpoint: {problem}") from None


@dataclass(frozen=True, slots=True)
class _Emission:
    """How events are sent; ``target`` is an endpoint's name or a URL."""

    store: CommandStore
    target: str | None
    allow_private: bool
    lane: Lane
    as_json: bool
    verbose: bool

    def of_files(self, files: list[str], *, strict: bool, **how: Any) -> None:
        """Store the events of these files, send them, and print their outcomes."""
        from resonant.cli.flow_runs import run_flow
        from resonant.cli.outcomes import print_outcomes, tracked
        from resonant.cli.send.files import store_files
        from resonant.dispatch.tracking import Tracker

        name: str | None
        stored: Summary
        tracker: Tracker

        async def start(opened: WorkerStore) -> State[Any] | None:
            nonlocal name, stored, tracker
            name, delivery_ids = await self._usable_endpoint(), array("q")
            of_endpoint = "" if name is None else f" --endpoint {name}"
            stored = await store_files(
                opened,
                files,
                name,
                max_event_bytes=self.store.settings.max_event_bytes,
                strict=strict,
                delivery_ids=delivery_ids,
                **how,
            )
            output.say(summary_line(stored, name))
            if strict and stored.refused:
                return None
            tracker = Tracker(opened)
            tracker.add(delivery_ids)
            goes_on = f"a running drain or the next `resonant emit{of_endpoint}` sends them"
            async with tracked(tracker, "emitting", store=opened, hidden=self.verbose, goes_on=goes_on):
                return await self._run_flow(name)

        run_flow(self.store, start, verbose=self.verbose)
        waiting = tracker.unavailable.keys() & stored.by_endpoint.keys()
        for each in sorted(waiting):
            output.say(f"deliveries to {each} wait: {tracker.unavailable[each]}")
        document = documents.emitted(stored, tracker.outcomes)
        print_outcomes(tracker, str(tracker.outcomes), document, endpoint=name, as_json=self.as_json)
        if stored.refused or waiting:
            raise typer.Exit(1)

    def of_due_deliveries(self, policy: str | None, max_attempts: int | None) -> None:
        """Send all due deliveries, and print the counts of the run."""
        import asyncio

        from resonant.cli.flow_runs import run_flow
        from resonant.cli.outcomes import holding, say_paused, sent_later
        from resonant.cli.progress import shown_until_the_end
        from resonant.dispatch.caller import Caller, calling
        from resonant.dispatch.counts import Counts
        from resonant.dispatch.held import count_held, say_parked
        from resonant.store.views.endpoint_status import governed
        from resonant.store.views.standing import parked_at

        paused: dict[str, int] = {}
        parked = ""

        async def start(opened: WorkerStore) -> State[Any]:
            nonlocal parked
            name = await self._usable_endpoint()
            before = await opened.unfinished(name)

            async def look() -> tuple[int, str]:
                return max(0, before - await opened.unfinished(name)), await holding(opened, name)

            try:
                async with shown_until_the_end("emitting", before, look, hidden=self.verbose):
                    with calling(Caller(store=opened)):
                        state = await self._run_flow(name, policy=policy, max_attempts=max_attempts)
            except asyncio.CancelledError:
                waiting = counted(await opened.unfinished(name), "delivery waits", "deliveries wait")
                held_by = await count_held(opened, Counts(), name)
                raise output.Interrupted(f"interrupted: {waiting}: {sent_later(held_by, _GOES_ON)}") from None
            now = opened.clock()
            parked = await say_parked(opened, await opened.read(parked_at, name, now=now))
            for gate, held in await opened.read(governed, now=now):
                if held and gate.state == "paused" and name in (None, gate.endpoint):
                    paused[gate.endpoint] = held
            return state

        state = run_flow(self.store, start, verbose=self.verbose)
        document = documents.outcomes(state.result(), "lost")
        output.write_result(document, str(state.message), as_json=self.as_json)
        output.flush()
        if parked:
            output.say(parked)
        for name, held in paused.items():
            say_paused(name, held)
        if paused:
            raise typer.Exit(1)

    async def _usable_endpoint(self) -> str | None:
        """Return the endpoint's name, if there is one, after a check of its configuration; a URL is saved as an endpoint."""
        from resonant.blocks import load_endpoint
        from resonant.blocks.catalog import endpoint_for_url

        if (name := self.target) is None:
            return None
        if options.is_url(name):
            name = await endpoint_for_url(name, allow_private=self.allow_private)
        (await load_endpoint(name)).check(name)
        return name

    async def _run_flow(self, endpoint: str | None, **options: Any) -> State[Any]:
        from flows.emit import emit_events

        # Prefect's overloads do not cover a coroutine flow with return_state.
        run: Any = emit_events(endpoint=endpoint, lane=self.lane, return_state=True, **options)  # type: ignore[call-overload,unused-ignore]
        state: State[Any] = await run
        return state
