"""``resonant endpoint list`` and ``show``: the configuration, without its secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resonant import output
from resonant.cli import documents, name_checks, options

if TYPE_CHECKING:
    from resonant.store.views.endpoint_status import Governed


def list_(as_json: options.Json = False) -> None:
    """List the endpoints, with the state of each gate. URLs are secret, so only hosts are shown.

    `endpoint show` shows the details.
    """
    import asyncio
    import time

    from resonant.cli.command_store import load_endpoint, on_prefect
    from resonant.errors import EndpointError
    from resonant.store.views.endpoint_status import governed

    with on_prefect() as store:
        from blocks.loading import load_endpoints

        found, now = asyncio.run(load_endpoints(load_endpoint)), time.time()
        name_checks.remember(store, found)
        gates = store.read(governed, now=now)
    problems = {name: str(block) for name, block in found.items() if isinstance(block, EndpointError)}
    rows = [
        {"name": name, **_shown(block), "problem": None, **documents.gate_and_held(_of(name, gates))}
        for name, block in found.items()
        if name not in problems
    ]
    for name, block in found.items():
        if not isinstance(block, EndpointError) and (problem := _problem(name, block)):
            problems[name] = next(row for row in rows if row["name"] == name)["problem"] = problem
    if as_json:
        shown = {row["name"] for row in rows}
        broken = [
            {"name": name, "problem": problem} for name, problem in problems.items() if name not in shown
        ]
        output.write_json_array(map(output.to_json, [*rows, *broken]))
        return
    if found:
        _write_list(rows, problems, gates, now=now)
    else:
        output.say("no endpoints: `resonant endpoint add NAME URL` adds one")


def _write_list(
    rows: list[dict[str, Any]], problems: dict[str, str], gates: list[Governed], *, now: float
) -> None:
    from resonant.cli.inspect.overview import gate_lines

    shown = {row["name"] for row in rows}
    listed = [*rows, *({"name": name, "usable": False} for name in problems if name not in shown)]
    listed.sort(key=lambda row: str(row["name"]))
    output.write_table(("name", "to", "signed", "state"), list(map(_listed, listed)))
    for line in gate_lines([each for each in gates if each.gate.endpoint in shown], now=now):
        output.write_paragraph(line, indent=2)
    for name, problem in problems.items():
        output.say(f"endpoint {name} cannot be used: {problem}")


def show(name: options.EndpointName, as_json: options.Json = False) -> None:
    """Show an endpoint's configuration and gate state; for secrets, only whether they are set."""
    import asyncio
    import time

    from resonant.cli.command_store import load_endpoint, on_prefect
    from resonant.events import rfc3339
    from resonant.gate.words import advice, described
    from resonant.store.views.endpoint_status import governed

    name = options.endpoint_name(name)
    with on_prefect() as store:
        block, now = asyncio.run(load_endpoint(name)), time.time()
        shown = {"name": name, **_shown(block)}
        gates = store.read(governed, now=now)
    gate, held = found = _of(name, gates)
    if as_json:
        gone_since = rfc3339(gate.since) if gate.is_gone else None
        output.write(
            output.to_json({**shown, "gone_since": gone_since, **documents.gate_and_held(found)}) + "\n"
        )
        return
    for key, value in shown.items():
        output.write_paragraph(f"{key}: {_cell(value)}", indent=2)
    output.write_paragraph(output.visible(f"gate: {described(gate, held=held, now=now)}"), indent=2)
    if next_step := advice(gate, now):
        output.write_paragraph(f"next: {next_step}", indent=2)
    if warning := block.warning():
        output.say(f"endpoint {name}: {warning}")


def _of(name: str, gates: list[Governed]) -> Governed:
    from resonant.store.shared.gates import Gate
    from resonant.store.views.endpoint_status import Governed

    return next((each for each in gates if each.gate.endpoint == name), Governed(Gate(name), 0))


def _shown(block: object) -> dict[str, object]:
    """Return an endpoint's configuration without its secrets."""
    from pydantic import SecretStr

    shown: dict[str, object] = {"type": type(block).get_block_type_slug()}  # type: ignore[attr-defined]
    for name in type(block).model_fields:  # type: ignore[attr-defined]
        value = getattr(block, name)
        if isinstance(value, SecretStr) or hasattr(value, "get_secret_value"):
            shown[name] = "set" if value.get_secret_value() else None
        else:
            shown[name] = value if isinstance(value, int | float | dict | None) else str(value)
    if (host := _host(block)) is not None:
        shown["host"] = host
    return shown


def _problem(name: str, block: object) -> str | None:
    """Return why the endpoint of a valid block cannot be opened; None if it can."""
    from resonant.errors import EndpointError

    try:
        block.to_endpoint(name)  # type: ignore[attr-defined]
    except EndpointError as error:
        return str(error)
    except AttributeError:  # another block type
        return None
    return None


def _host(block: object) -> str | None:
    """Return scheme, host and port of a webhook endpoint; the rest of its URL is secret."""
    import httpx

    url = getattr(block, "url", None)
    if url is None:
        return None
    try:
        parsed = httpx.URL(url.get_secret_value())
        host = parsed.host
    except (httpx.InvalidURL, ValueError, AttributeError):
        return None
    port = "" if parsed.port is None else f":{parsed.port}"
    return f"{parsed.scheme}://{host}{port}" if host else None


def _listed(row: dict[str, Any]) -> list[str]:
    if row.get("usable") is False:
        return [str(row["name"]), "-", "-", "cannot be used"]
    state = row["gate"]["state"].replace("normal", "ok") if row["problem"] is None else "cannot be used"
    to = row.get("host") or row["type"]
    signed = "yes" if row.get("signing_secret") else "no"
    return [str(row["name"]), str(to), signed, state]


def _cell(value: object) -> str:
    if value is None or value == {}:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
