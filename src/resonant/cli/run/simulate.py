"""``resonant simulate``: the gate and the retry policies against a model of an endpoint, in simulated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.files import READABLE_BY_ALL, atomic_file
from resonant.lab.scenario import Outage, Overload, Scenario
from resonant.suggestions import did_you_mean

if TYPE_CHECKING:
    from resonant.delivery.retry import RetryPolicy
    from resonant.lab.comparison import Variant

_SHADES, _ASCII_SHADES = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
_CHART_COLUMNS = 60


_time = partial(typer.Option, metavar="TIME")
_kind = partial(typer.Option, metavar="KIND")
_share = partial(typer.Option, metavar="SHARE", min=0, max=0.95)
_number = partial(typer.Option, metavar="N", min=1)


def simulate(
    outage: Annotated[str, _time(help="Length of the outage at the start, such as 90s, 5m or 24h.")] = "30s",
    outage_kind: Annotated[
        Outage, _kind(help="How the endpoint fails during the outage: refuse, 503, 429 or hang.")
    ] = "refuse",
    flap: Annotated[
        str, _time(help="Alternate between down and up during the outage, each for this time; 0: never.")
    ] = "0",
    capacity: Annotated[
        float, _number(min=0, max=100_000, help="Requests per second that the endpoint accepts; 0: no limit.")
    ] = 50.0,
    overload: Annotated[Overload, _kind(help="How it handles excess requests: 503, 429 or queue.")] = "503",
    retry_after: Annotated[str, _time(help="The Retry-After of each 429 and 503; 0: none.")] = "0",
    failures: Annotated[float, _share(help="Share of requests that fail at random.")] = 0.0,
    limited: Annotated[
        float, _share(help="Share of requests that are answered 429 at random, as by a limit per tenant.")
    ] = 0.0,
    poison: Annotated[float, _share(help="Share of events, of one type, that always fail.")] = 0.0,
    types: Annotated[
        int, _number(max=1_000, help="Number of event types; with --poison, one of them fails.")
    ] = 5,
    events: Annotated[int, _number(max=100_000, help="Number of events.")] = 1_000,
    over: Annotated[str, _time(help="Time over which the events arrive; 0: all at the start.")] = "0",
    processes: Annotated[int, _number(max=64, help="Sending processes.")] = 1,
    concurrency: Annotated[int, _number(max=1_000, help="Concurrent requests per process.")] = 50,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A retry policy; repeatable. default, classic, standard-webhooks, the default with another jitter (none, "
            "proportional, equal, full, decorrelated), or one of RESONANT_POLICIES.",
        ),
    ] = None,
    seeds: Annotated[int, _number(max=1_000, help="Runs of each policy, with and without the gate.")] = 5,
    svg: Annotated[
        str | None, typer.Option("--svg", metavar="FILE", help="Draw the requests per second as SVG.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show how retry policies treat a failing endpoint, each with and without the gate.

    Runs the real gate and retry code in simulated time against a model of an endpoint. A simulated hour takes a second.
    The same options give the same figures. The command sends nothing and reads no store.
    """
    from resonant.lab.comparison import COMPARED, policies_by_jitter
    from resonant.settings import load_settings

    scenario = Scenario(
        events=events,
        over=options.seconds("--over", over),
        outage=options.seconds("--outage", outage),
        outage_kind=outage_kind,
        flap=options.seconds("--flap", flap),
        capacity=capacity,
        overload=overload,
        retry_after=options.seconds("--retry-after", retry_after),
        failures=failures,
        limited=limited,
        poison=poison,
        types=types,
        processes=processes,
        concurrency=concurrency,
    )
    policies = _chosen(policy or COMPARED, policies_by_jitter() | load_settings().known_policies)
    if svg is None:
        variants = _compare(scenario, policies, seeds)
    else:
        from resonant.lab import chart

        # Opened before the simulation, so that a wrong path fails at once.
        with atomic_file(Path(svg), mode=READABLE_BY_ALL) as write:
            variants = _compare(scenario, policies, seeds)
            write(chart.svg(scenario, variants))
    if as_json:
        output.write(output.to_json(documents.comparison(scenario, variants)) + "\n")
        return
    _write_table(scenario, variants)
    _write_chart(scenario, variants)
    if svg is not None:
        output.write(f"\nwrote {output.visible(svg)}\n")


def _compare(scenario: Scenario, policies: Mapping[str, RetryPolicy], seeds: int) -> list[Variant]:
    from resonant.cli.progress import progress
    from resonant.lab.comparison import compare

    with progress("simulating", total=2 * seeds * len(policies)) as show:
        done = count(1)
        return list(compare(scenario, policies, seeds=seeds, done=lambda: show(next(done))))


def _chosen(names: Sequence[str], known: Mapping[str, RetryPolicy]) -> dict[str, RetryPolicy]:
    for name in names:
        if name not in known:
            raise options.Misuse(f"--policy: no retry policy is named {name!r}{did_you_mean(name, known)}")
    return {name: known[name] for name in names}


def _write_table(scenario: Scenario, variants: Sequence[Variant]) -> None:
    peak = "peak ÷\ncapacity" if scenario.capacity else "peak\nper second"
    header = (
        "policy",
        "gate",
        "attempts\nper event",
        peak,
        "in the\nworst seed",
        "drained\nafter",
        "noticed\nafter",
    )
    rows = [
        (
            variant.policy,
            "yes" if variant.has_gate else "no",
            f"{variant.mean('attempts'):.2f}",
            f"{variant.mean('peak'):,.2f}",
            f"{variant.worst('peak'):,.2f}",
            f"{variant.mean('drain'):,.1f} s" if variant.mean("drain") else "-",
            f"{variant.mean('noticed'):,.1f} s" if variant.mean("noticed") else "-",
            f"{variant.given_up:,}",
        )
        for variant in variants
    ]
    output.write_table((*header, "dead\nletters"), rows)
    if scenario.shortest_drain:
        output.write_paragraph(
            f"At its capacity the endpoint needs {scenario.shortest_drain:,.1f} s for all events. Peak: the busiest whole second "
            "after recovery."
        )
    if any(variant.unfinished for variant in variants):
        output.write_paragraph(
            "Unfinished deliveries after three days: "
            + ", ".join(
                f"{each.policy} {'with' if each.has_gate else 'without'} the gate {each.unfinished:,}"
                for each in variants
                if each.unfinished
            )
        )


def _write_chart(scenario: Scenario, variants: Sequence[Variant]) -> None:
    """Show the requests per second of the first seed, with one line of bars per variant."""
    from resonant.lab.comparison import seen, window

    first, last = window(scenario)
    width = min(_CHART_COLUMNS, last - first)
    step = (last - first) / width
    full = 2 * scenario.capacity or max(max(seen(each, first, last)) for each in variants) or 1
    shades = _ASCII_SHADES if output.stdout().options.ascii_only else _SHADES
    names = [f"{each.policy}, gate" if each.has_gate else each.policy for each in variants]
    output.write(
        f"\nRequests per second from {first:,} s to {last:,} s; {shades[-1]} is {full:,.0f} or more."
        f" The outage ends at {scenario.outage:,.0f} s.\n"
    )
    marker = min(width - 1, int((scenario.outage - first) / step))
    output.write(" " * (max(map(len, names)) + 2 + marker) + "|\n")
    for name, variant in zip(names, variants, strict=True):
        counts = seen(variant, first, last)
        columns = [
            counts[int(at * step) : max(int(at * step) + 1, int((at + 1) * step))] for at in range(width)
        ]
        line = "".join(_shade(max(column), full, shades) for column in columns)
        output.write(f"{output.visible(name):<{max(map(len, names))}}  {line.rstrip()}\n")


def _shade(count: int, full: float, shades: str) -> str:
    if not count:
        return shades[0]
    return shades[min(len(shades) - 1, max(1, round(count / full * (len(shades) - 1))))]
