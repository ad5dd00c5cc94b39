"""Generate the pages of ``docs/reference`` from the code: ``python -m docs.generate``, or ``make reference``.

The pages are committed, so that they can be read without building the site. A test fails if one is out of date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REFERENCE = Path(__file__).parent / "reference"

# The public names by topic; the errors follow them.
_TOPICS = {
    "Store events": ("Event", "enqueue", "EnqueueResult", "create_schema"),
    "Open a store": ("open_store", "Store"),
    "Write a sink": ("Sink", "Receipt"),
    "Classify failures and retry": ("classifier", "Verdict", "RetryPolicy"),
}


def pages() -> dict[str, str]:
    """Return the generated pages by the names of their files."""
    return {
        "commands.md": _text(_commands()),
        "settings.md": _text(_settings()),
        "metrics.md": _text(_metrics()),
        "python.md": _text(_python()),
    }


def main() -> None:
    """Write the pages that have changed."""
    for name, text in pages().items():
        path = REFERENCE / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(Path.cwd())}\n")


def _commands() -> Iterator[str]:
    from typer.main import get_command  # noqa: PLC0415 - the pages are independent

    from resonant.cli import app  # noqa: PLC0415

    root: Any = get_command(app)
    yield "# Commands"
    yield (
        "`resonant COMMAND --help` shows the same on the terminal. Exit codes: 0 done, 1 not done (one line on standard "
        "error says why), 2 invalid arguments or options. A command with `--json` prints one JSON document on standard "
        "output and nothing else."
    )
    yield _table(("option of `resonant`", "meaning"), [_option(each)[::2] for each in root.params])
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in root.commands.items():
        panels.setdefault(command.rich_help_panel, []).append((name, command))
    for panel, commands in panels.items():
        yield f"## {panel}"
        for name, command in commands:
            yield from _command(f"resonant {name}", command)


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"### {path}"
    yield _escaped(command.help)
    if nested := getattr(command, "commands", None):
        for name, each in nested.items():
            yield from _command(f"{path} {name}", each)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    required = [f"{each.opts[0]} {each.metavar}" for each in options if each.required]
    usage = [path, *map(_argument_usage, arguments), *required, "[OPTIONS]"]
    example = command.epilog.removeprefix("Example: ")
    yield f"Usage: `{' '.join(usage)}`. For example:"
    yield f"```sh\n{example}\n```"
    if arguments:
        rows = [(f"`{each.metavar}`", _escaped(each.help)) for each in arguments]
        yield _table(("argument", "meaning"), rows)
    if options:
        yield _table(("option", "default", "meaning"), [_option(each) for each in options])


def _argument_usage(argument: Any) -> str:
    name = argument.metavar + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> tuple[str, str, str]:
    names = [f"{each} {option.metavar}" if option.metavar else each for each in option.opts]
    if option.required:
        default = "required"
    elif option.default is None or option.default is False:
        default = ""
    else:
        default = f"`{_plain_number(getattr(option.default, 'value', option.default))}`"
    text = _escaped(option.help)
    if limits := _limits(getattr(option, "min", None), getattr(option, "max", None)):
        text += f" ({limits})"
    return ", ".join(f"`{each}`" for each in [*names, *option.secondary_opts]), default, text


def _settings() -> Iterator[str]:
    from resonant.settings import Settings  # noqa: PLC0415

    properties = Settings.model_json_schema()["properties"]
    yield "# Settings"
    yield (
        "Every setting is an environment variable. An empty variable counts as not set. A malformed one is an error that "
        "names the variable."
    )
    rows = {
        name: (f"`RESONANT_{name.upper()}`", _kind(each), _default(each), _escaped(each["description"]))
        for name, each in properties.items()
    }
    columns = ("variable", "type", "default", "meaning")
    yield _table(columns, [row for name, row in rows.items() if not name.startswith("alert_")])
    yield "## Alerts"
    yield (
        "These settings decide when the flow `export-metrics` raises an alert. [Monitoring](../monitoring.md) explains each alert, and has the rules "
        "for Prometheus, which have thresholds of their own."
    )
    yield _table(columns, [row for name, row in rows.items() if name.startswith("alert_")])


def _kind(schema: dict[str, Any]) -> str:
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    [only] = kinds
    by_format = {"path": "path", "password": "URL"}
    by_type = {
        "boolean": "`on` or `off`",
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "array": "names",
        "object": "JSON object",
    }
    kind = by_format.get(only.get("format", "")) or by_type[only["type"]]
    above = only.get("exclusiveMinimum")
    limits = _limits(only.get("minimum"), only.get("maximum"))
    if above is not None:
        limits = f"above {above}" + (f", up to {only['maximum']}" if "maximum" in only else "")
    return f"{kind}, {limits}" if limits else kind


def _default(schema: dict[str, Any]) -> str:
    value = schema["default"]
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    return "none" if value is None or value in ({}, []) else f"`{_plain_number(value)}`"


def _limits(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f"{_plain_number(least)} or more"
    return f"{_plain_number(least)} to {_plain_number(most)}"


def _plain_number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metrics() -> Iterator[str]:
    from resonant.events import Category, Reason, Result, Status  # noqa: PLC0415
    from resonant.metrics.percentiles import Spread  # noqa: PLC0415
    from resonant.metrics.prometheus import registry_of  # noqa: PLC0415
    from resonant.metrics.statistics import Attempts, Events, Figures, Retries, Statistics  # noqa: PLC0415
    from resonant.metrics.totals import Totals  # noqa: PLC0415
    from resonant.store.counters import BUCKETS  # noqa: PLC0415
    from resonant.store.gates import GateState  # noqa: PLC0415

    nothing = Figures(
        Events(0, 0, 0, 0, 0), Attempts(0, 0), Spread(), Spread(), Retries(0, None, None), {}, {}, {}, {}
    )
    registry = registry_of(Totals(0, (), (), {}, {}, {}, {}, {}), Statistics(0, 0, nothing, {}, {}, (), ()))
    yield "# Metrics"
    yield (
        "The flow `export-metrics` and `resonant prometheus` write these metrics as Prometheus text. "
        "[Monitoring](../monitoring.md) explains how to scrape them, and has the alerts. The store keeps the counters: they "
        "never go down, not even after a restart or a purge. Counters and histograms are absent while `RESONANT_ROLLUPS` is "
        "off."
    )
    rows = []
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{each}`" for each in vars(family)["_labelnames"])
        rows.append((f"`{name}`", family.type, labels, _escaped(family.documentation)))
    yield _table(("name", "kind", "labels", "meaning"), rows)
    yield "## Labels"
    yield "No label has an id, a URL or an error text as its value."
    values = {
        "endpoint": "the endpoint's name",
        "status": _values(Status),
        "outcome": "`delivered` or `dead_letter`",
        "result": _values(Result),
        "category": f"the classifier's verdict: {_values(Category)}; empty for a delivered attempt",
        "code": "the classifier's code, such as `http_503` or `timeout`; empty for a delivered attempt",
        "reason": f"why the delivery was given up: {_values(Reason)}",
        "state": _values(GateState),
        "percentile": "`p50`, `p95` or `p99`",
    }
    yield _table(("label", "values"), [(f"`{name}`", text) for name, text in values.items()])
    yield "## Buckets"
    yield f"Every histogram has these upper bounds, in seconds: {', '.join(f'{each:g}' for each in BUCKETS[:-1])}."


def _values(literal: Any) -> str:
    *most, last = (f"`{each}`" for each in get_args(literal))
    return f"{', '.join(most)} or {last}"


def _python() -> Iterator[str]:
    import resonant  # noqa: PLC0415

    listed = [name for names in _TOPICS.values() for name in names]
    topics = {**_TOPICS, "Errors": tuple(name for name in resonant.__all__ if name not in listed)}
    yield "# Python API"
    yield (
        "`from resonant import ...` has these names. They are typed, and `import resonant` loads nothing heavy: each name is "
        "imported when it is first used. [Testing your code](../testing.md) describes `resonant.testing`."
    )
    for topic, names in topics.items():
        yield f"## {topic}"
        yield _table(
            ("name", "meaning"), [(f"`{name}`", _summary(getattr(resonant, name))) for name in names]
        )
    yield "## Details"
    yield "The documentation site, which `make docs` builds, shows signatures, arguments and errors here."
    for names in topics.values():
        for name in names:
            documented = _documented(getattr(resonant, name))
            yield f"::: {documented.__module__}.{documented.__qualname__}"


def _documented(thing: Any) -> Any:
    """Return the class of an object like the classifier."""
    return thing if isinstance(thing, type) or inspect.isroutine(thing) else type(thing)


def _summary(thing: Any) -> str:
    return _escaped((inspect.getdoc(_documented(thing)) or "").partition("\n")[0].replace("``", "`"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _text(parts: Iterator[str]) -> str:
    title, *rest = parts
    note = "<!-- Generated by `make reference`: change the code, not this page. -->"
    return "\n\n".join([note, title, *rest]) + "\n"


if __name__ == "__main__":
    main()
