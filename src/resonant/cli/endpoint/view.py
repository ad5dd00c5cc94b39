"""``resonant endpoint list`` and ``show``: the configuration, without its secrets."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import load_endpoint, on_prefect, run_async
from resonant.display import ago, counted
from resonant.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resonant.blocks import EndpointBlock
    from resonant.routing import Subscription
    from resonant.store.views.endpoint_status import Governed


class _Listed(NamedTuple):
    """An endpoint: its block, or why it has none; why it cannot be used, or None; its gate, and the number of subscriptions.

    ``now`` is the time of the reading, in seconds since the epoch.
    """

    name: str
    block: EndpointBlock | EndpointError
    problem: str | None
    governed: Governed
    subscriptions: int
    now: float

    @property
    def document(self) -> output.Document:
        facts = (self.name, self.block, self.problem, self.governed, self.subscriptions)
        return documents.endpoint(*facts, now=self.now)


def list_(
    export: Annotated[
        bool,
        typer.Option(
            "--export",
            help="Print the endpoints that are URLs or deployments as a file for `endpoint import`, without their secrets.",
        ),
    ] = False,
    with_urls: Annotated[
        bool, typer.Option("--with-urls", help="With --export: print URLs, which may contain tokens.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the endpoints, with the state of each gate. URLs are secret, so only hosts are shown.

    `endpoint show` shows the details.
    """
    from resonant.store.shared.drains import sent_to
    from resonant.store.shared.subscriptions import read_subscriptions
    from resonant.store.views.endpoint_status import governed

    if (with_urls and not export) or (export and as_json):
        raise options.Misuse("--with-urls needs --export, and --export cannot be combined with --json")
    with on_prefect(named=not as_json) as store:
        from resonant.blocks.loading import load_endpoints

        found = run_async(load_endpoints(load_endpoint))
        gates: list[Governed] = []
        subscriptions: list[Subscription] = []
        sent: set[str] = set()
        now = 0.0
        if not store.is_missing:  # Prefect has the endpoints, so the list needs no store
            now = store.now()
            name_checks.remember(store, found)
            gates, subscriptions = store.read(governed, now=now), store.read(read_subscriptions)
            sent = store.read(sent_to, [each.gate.endpoint for each in gates], now=now)
    numbers = Counter(each.endpoint for each in subscriptions)
    held = {each.gate.endpoint: each for each in gates}
    rows = [
        _Listed(name, block, _problem(name, block), _of(name, held), numbers[name], now)
        for name, block in sorted(found.items())
    ]
    if export:
        _export(rows, subscriptions, with_urls=with_urls)
    elif as_json:
        output.write_json_array(output.to_json(row.document) for row in rows)
    elif rows:
        _write_list(rows, gates, now=now, sent=sent)
    else:
        output.say("no endpoints: `resonant endpoint add NAME URL` adds one")


def _export(rows: list[_Listed], subscriptions: list[Subscription], *, with_urls: bool) -> None:
    from resonant.blocks import DeploymentEndpoint, WebhookEndpoint
    from resonant.cli.endpoint import declared_subscriptions
    from resonant.cli.endpoint.declared import exported

    kinds = (WebhookEndpoint, DeploymentEndpoint)
    blocks = {row.name: row.block for row in rows if isinstance(row.block, kinds) and not row.problem}
    output.write(exported(blocks, declared_subscriptions.exported(subscriptions), with_urls=with_urls))
    for row in rows:
        if row.name not in blocks:
            output.say(
                f"endpoint {row.name} is not exported: it is neither a URL nor a deployment, or cannot be used"
            )


def _write_list(rows: list[_Listed], gates: list[Governed], *, now: float, sent: set[str]) -> None:
    from resonant.cli.inspect.overview import gate_lines

    output.write_table(("name", "to", "signed", "subscriptions", "state"), list(map(_cells, rows)))
    names = {row.name for row in rows}
    of_listed = [each for each in gates if each.gate.endpoint in names]
    for line in gate_lines(of_listed, now=now, sent=sent):
        output.write_paragraph(line, indent=2)
    for row in rows:
        if row.problem is not None:
            output.say(f"endpoint {row.name} cannot be used: {row.problem}")


def _cells(row: _Listed) -> list[str]:
    found = row.document
    to = found.get("host") or found.get("deployment") or found.get("type") or "-"
    signed = ("yes" if found.get("signing_secret") else "no") if "type" in found else "-"
    gate = row.governed.gate
    failing = len(gate.failing_at(row.now))
    works = counted(failing, "type fails", "types fail") if failing else "ok"
    state = "cannot be used" if row.problem else gate.state.replace("normal", works)
    return [row.name, to, signed, str(row.subscriptions), state]


def show(name: options.EndpointName, as_json: options.Json = False) -> None:
    """Show an endpoint's configuration and gate state; for secrets, only whether they are set."""
    from resonant.gate.words import advice, described
    from resonant.store.shared.drains import is_sending
    from resonant.store.shared.subscriptions import read_subscriptions
    from resonant.store.views.endpoint_problems import problems
    from resonant.store.views.endpoint_status import governed

    name = options.endpoint_name(name)
    with on_prefect(named=not as_json, exists=True) as store:
        block, now = run_async(load_endpoint(name)), store.now()
        gates = {each.gate.endpoint: each for each in store.read(governed, now=now)}
        gate, held = found = _of(name, gates)
        is_sent = store.read(is_sending, now=now, endpoint=name)
        waits = next(iter(store.read(problems, name)), None)
        subscriptions = store.read(read_subscriptions, name)
        try:
            warnings = run_async(block.verify(name))
        except EndpointError as error:
            warnings = [str(error).removeprefix(f"endpoint {name!r}: ")]
    if as_json:
        problem = _problem(name, block) or (waits.reason if waits else None)
        document = documents.endpoint(name, block, problem, found, len(subscriptions), now=now)
        output.write(output.to_json(document | {"warnings": warnings}) + "\n")
        return
    for key, value in documents.endpoint_settings(name, block).items():
        output.write_paragraph(f"{key}: {_cell(value)}", indent=2)
    output.write_paragraph(f"subscriptions: {len(subscriptions)}")
    said = described(gate, held=held, now=now, is_sent=is_sent)
    output.write_paragraph(output.visible(f"gate: {said}"), indent=2)
    if waits is not None:
        since = ago(now - waits.since)
        said = output.visible(f"deliveries wait: {waits.reason} (first seen {since})")
        output.write_paragraph(said, indent=2)
    if next_step := advice(gate, now):
        output.write_paragraph(f"next: {next_step}", indent=2)
    for warning in filter(None, [*warnings, block.warning()]):
        output.say(f"endpoint {name}: {warning}")


def _of(name: str, gates: Mapping[str, Governed]) -> Governed:
    from resonant.store.shared.gates import Gate
    from resonant.store.views.endpoint_status import Governed

    return gates.get(name) or Governed(Gate(name), 0)


def _problem(name: str, block: Any) -> str | None:
    """Return why an endpoint cannot be used; None if it can."""
    if isinstance(block, EndpointError):
        return str(block)
    try:
        block.to_endpoint(name)
    except EndpointError as error:
        return str(error)
    except AttributeError:  # another block type
        return None
    return None


def _cell(value: object) -> str:
    if value is None or value in ({}, []):
        return "-"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return ("yes" if value else "no") if isinstance(value, bool) else output.visible(str(value))
