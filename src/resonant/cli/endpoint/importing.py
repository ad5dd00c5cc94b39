"""``resonant endpoint import``: save the endpoints that a file declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import asking, name_checks, options
from resonant.cli.automation import commands as automation
from resonant.cli.command_store import CommandStore, load_endpoint, on_prefect, run_async
from resonant.display import counted, some

if TYPE_CHECKING:
    from resonant.cli.endpoint.declared import Change
    from resonant.cli.endpoint.declared_subscriptions import Difference

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="YAML, JSON or JSON lines; - is standard input.", show_default=False
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the changes, URLs and references; change nothing.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Also remove the endpoints (URLs and deployments) that FILE does not declare."
        ),
    ] = False,
    any_file: Annotated[
        bool, typer.Option("--any-file", help="Let file:PATH name files outside the folder of FILE.")
    ] = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Add and change endpoints as FILE declares them; repeating it changes nothing.

    FILE declares one endpoint per line of JSON, or a list of them in YAML or JSON. Only name and url, or name and deployment are
    needed:

    {"name": "shop", "url": "env:SHOP_URL", "signing_secret": "file:shop.key"}

    {"name": "retrain", "deployment": "retrain/main", "parameters": {"order": "/data/order"}}

    Do not write secrets into FILE: env:NAME is the value of an environment variable, and file:PATH the content of a file in the
    folder of FILE or below. This works for url, headers, proxy, signing_secret, client_certificate, client_key, oauth_token_url,
    oauth_client_secret, api_key and auth_string. If a signing secret changes, the old one also signs for 24 hours.

    Import only a FILE that you trust: it decides which variables and files are read, and to which URL they are sent. --dry-run shows
    the URL, the token URL, the proxy and each reference of the endpoints that would be added or changed.

    Other settings are policy, timeout, concurrency, rate, mode, status_overrides, allow_private and ca_file; for OAuth,
    oauth_token_url, oauth_client_id, oauth_scope, oauth_audience and oauth_authentication. `resonant endpoint add --help`
    explains them. A deployment has policy, timeout, concurrency, rate, parameters, as_text, tags, work_queue, wait, wait_at_most,
    api_url, api_key and auth_string, and must exist. A setting that is left out gets its default.

    "subscriptions" is a list of objects with types, source and filters, such as [{"types": ["order.*"]}]. They replace those that
    are stored. An endpoint without this key keeps its subscriptions.

    Nothing is saved if FILE has a mistake. `resonant endpoint list --export` writes such a file.
    """
    from resonant.store.shared.subscriptions import read_subscriptions

    text = options.text_of_file("/dev/stdin" if file == "-" else file, file)
    from resonant.cli.endpoint import declared, declared_subscriptions
    from resonant.settings import load_settings

    # Mistakes in the file are reported before a server is started.
    rows = declared.read(text, file)
    settings = load_settings()
    blocks = declared.parse(rows, file, Path(file).parent, settings, any_file=any_file)
    subscriptions = declared_subscriptions.parse(rows, file)
    if prune and not blocks:
        raise options.Misuse(f"{file}: no endpoints: --prune would remove every endpoint")
    with on_prefect(settings) as store:
        from resonant.blocks.loading import load_endpoints

        saved = run_async(load_endpoints(load_endpoint))
        declared.check_new_secrets(blocks, saved, file)
        stored = store.read(read_subscriptions)
        differences = declared_subscriptions.compare(subscriptions, stored)
        changes = [
            _with(differences.get(each.name), each)
            for each in declared.compare(blocks, saved, prune=prune, now=datetime.now(UTC))
        ]
        to_do = [each for each in changes if each.kind != "unchanged"]
        run_async(_verify(to_do))
        gone = [each.name for each in changes if each.kind == "removed"]
        kept = [each for each in stored if each.endpoint not in gone]
        declared_subscriptions.check_number(differences.values(), kept, file)
        if not dry_run:
            if gone and not yes:
                _confirm_removal(gone)
            _save(store, to_do, differences)
    written = {options.endpoint_name(row["name"]): declared.as_written(row) for row in rows}
    shown = {each.name: written[each.name] for each in to_do if dry_run and each.block is not None}
    if as_json:
        output.write(output.to_json(documents.endpoint_import(changes, shown, dry_run=dry_run)) + "\n")
        return
    for each in to_do:
        line = f"{_SIGNS[each.kind]} {each.name}  {'; '.join(each.fields.values())}"
        output.write_paragraph(output.visible(line.rstrip()))
        for setting, value in shown.get(each.name, {}).items():
            output.write_paragraph(output.visible(f"    {setting}: {value}"), indent=6)
    counts = Counter(each.kind for each in changes)
    words = ", ".join(f"{counts[kind]} {kind}" for kind in (*_SIGNS, "unchanged"))
    output.write_paragraph(f"{'would be: ' if dry_run else ''}{words}")


async def _verify(changes: list[Change]) -> None:
    """Ask Prefect for the deployments; raise ``EndpointError`` if one does not fit, and print warnings."""
    for each in changes:
        for warning in await each.block.verify(each.name) if each.block is not None else ():
            output.say(f"endpoint {each.name}: {warning}")


def _with(difference: Difference | None, change: Change) -> Change:
    """Return the change of an endpoint together with that of its subscriptions."""
    if difference is None:
        return change
    kind = "changed" if change.kind == "unchanged" else change.kind
    return replace(change, kind=kind, fields={**change.fields, "subscriptions": str(difference)})


def _confirm_removal(names: list[str]) -> None:
    what = f"{counted(len(names), 'endpoint')} ({some(names)})"
    if not asking.can_ask():
        raise options.Misuse(f"--prune would remove {what}: give --yes")
    asking.confirm(
        f"removing {what}, their subscriptions and automations: their deliveries stay in the store, and wait until they are added again",
        "Remove?",
    )


def _save(store: CommandStore, changes: list[Change], differences: Mapping[str, Difference]) -> None:
    import asyncio

    from resonant.blocks.catalog import save_endpoints
    from resonant.cli.endpoint import declared_subscriptions
    from resonant.cli.progress import progress

    blocks, done = {each.name: each.block for each in changes}, []
    # Before the endpoints, so that an interrupted import can be repeated: then it still finds what to remove.
    if gone := [name for name, block in blocks.items() if block is None]:
        name_checks.forget(store, gone)
        automation.forget_endpoints(store, gone)
    with progress("saving", len(blocks)) as show:

        def on_saved(name: str) -> None:
            done.append(name)
            show(len(done))

        async def save() -> None:
            try:
                await save_endpoints(blocks, on_saved)
            except asyncio.CancelledError:
                of_all = f"{len(done):,} of {counted(len(blocks), 'endpoint')}"
                raise output.Interrupted(
                    f"interrupted after {of_all}; run the same import again for the others"
                ) from None

        try:
            run_async(save())
        finally:
            kinds = {each.name: each.kind for each in changes}
            saved = {kind: [name for name in done if kinds[name] == kind] for kind in _SIGNS}
            configured = [*saved["added"], *saved["changed"]]
            if done:
                name_checks.note_change(store, configured, "endpoint import", **saved)
    store.change(declared_subscriptions.apply, list(differences.values()))
