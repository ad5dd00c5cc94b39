"""The OpenAPI document as tables, for ``/docs`` and the reference. Cells have code between backticks, as in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Table(NamedTuple):
    """A table, which may have no rows."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Section(NamedTuple):
    """An operation or a schema."""

    title: str
    paragraphs: Sequence[str]
    tables: Sequence[Table]


def sections(document: dict[str, Any]) -> Iterator[Section]:
    """Yield the operations of a document, then its schemas."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield _operation(f"{method.upper()} {path}", operation)
    for name, schema in document["components"]["schemas"].items():
        yield _schema(name, schema)


def _operation(title: str, operation: dict[str, Any]) -> Section:
    parameters = [
        (f"`{each['name']}`", each["in"], each["description"]) for each in operation.get("parameters", ())
    ]
    bodies = [
        (f"`{kind}`", _words(each["schema"]))
        for kind, each in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        (
            status,
            answer["description"],
            ", ".join(f"`{name}`" for name in answer.get("headers", ())),
            _content(answer),
        )
        for status, answer in operation["responses"].items()
    ]
    paragraphs = [operation["summary"], *operation.get("description", "").split("\n\n")]
    tables = [
        Table(("parameter", "in", "meaning"), parameters),
        Table(("body", "content"), bodies),
        Table(("status", "meaning", "headers", "body"), answers),
    ]
    return Section(title, list(filter(None, paragraphs)), tables)


def _schema(name: str, schema: dict[str, Any]) -> Section:
    required = schema.get("required", ())
    members = [
        (f"`{member}`", _words(each), "yes" if member in required else "", each.get("description", ""))
        for member, each in schema.get("properties", {}).items()
    ]
    if others := schema.get("additionalProperties"):
        members.append(("others", "string, boolean, integer", "", others["description"]))
    paragraphs = [schema["description"]] if "description" in schema else []
    if not members and "type" in schema:
        paragraphs.append(f"An {_words(schema)}.")
    return Section(name, paragraphs, [Table(("member", "type", "required", "meaning"), members)])


def _content(answer: dict[str, Any]) -> str:
    return ", ".join(
        f"`{kind}`: {_words(each['schema'])}" if each.get("schema") else f"`{kind}`"
        for kind, each in answer.get("content", {}).items()
    )


def _words(schema: dict[str, Any]) -> str:
    """Return a short description of a schema's values."""
    if reference := schema.get("$ref"):
        return f"`{reference.rpartition('/')[2]}`"
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return " or ".join("null" if value is None else f"`{value}`" for value in values)
    kinds = schema.get("type", "any value")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if kind == "array":
        most = f", at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"array of {_words(schema['items'])}{most}"
    if properties := schema.get("properties"):
        return f"object with {', '.join(f'`{name}`' for name in properties)}"
    if schema.get("format") == "date-time":
        return kind.replace("string", "time")
    most = f", at most {schema['maxLength']:,} characters" if "maxLength" in schema else ""
    return kind + most
