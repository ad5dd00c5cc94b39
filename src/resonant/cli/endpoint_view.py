"""``resonant endpoint list`` and ``show``: what is configured, without its secrets."""

from __future__ import annotations

from resonant import output
from resonant.cli import endpoint_options as given
from resonant.cli import options


def list_(as_json: options.Json = False) -> None:
    """List the endpoints. URLs are secret, so only hosts are shown. `endpoint show` has the details."""
    import asyncio

    from resonant.cli.running import on_prefect
    from resonant.errors import EndpointError

    with on_prefect():
        from blocks.catalog import list_endpoints

        found = asyncio.run(list_endpoints())
    problems = {name: str(block) for name, block in found if isinstance(block, EndpointError)}
    rows = [{"name": name, **_shown(block), "problem": None} for name, block in found if name not in problems]
    for name, block in found:
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
        shown = {row["name"] for row in rows}
        listed = [*rows, *({"name": name, "usable": False} for name in problems if name not in shown)]
        listed.sort(key=lambda row: str(row["name"]))
        output.write_table(("name", "to", "signed", "state"), list(map(_listed, listed)))
    for name, problem in problems.items():
        output.say(f"endpoint {name} cannot be used: {problem}")
    if not found:
        output.say("no endpoints: `resonant endpoint add NAME URL` makes one")


def show(name: given.Name, as_json: options.Json = False) -> None:
    """Show an endpoint's configuration; of secrets, only whether they are set."""
    import asyncio

    from resonant.cli.running import on_prefect, run_with_store
    from resonant.events import rfc3339

    name = options.endpoint_name(name)
    with on_prefect() as settings:
        from blocks import load_endpoint

        shown = {"name": name, **_shown(asyncio.run(load_endpoint(name)))}
        gone_at = run_with_store(lambda store: store.gone_at(name), settings)
        shown["gone_since"] = None if gone_at is None else rfc3339(gone_at)
    if as_json:
        output.write(output.to_json(shown) + "\n")
        return
    for key, value in shown.items():
        output.write(f"{key}: {_cell(value)}\n")


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
    """Return why a completely configured endpoint cannot be opened."""
    from resonant.errors import EndpointError

    try:
        block.to_endpoint(name)  # type: ignore[attr-defined]
    except EndpointError as error:
        return str(error)
    except AttributeError:  # of another block type
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


def _listed(row: dict[str, object]) -> list[str]:
    if row.get("usable") is False:
        return [str(row["name"]), "-", "-", "cannot be used"]
    state = "ok" if row["problem"] is None else "cannot be used"
    to = row.get("host") or row["type"]
    signed = "yes" if row.get("signing_secret") else "no"
    return [str(row["name"]), str(to), signed, state]


def _cell(value: object) -> str:
    if value is None or value == {}:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
