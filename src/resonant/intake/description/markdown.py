"""The OpenAPI document as Markdown, for ``/docs`` and the reference."""

from collections.abc import Iterator, Sequence
from typing import Any


def markdown(document: dict[str, Any]) -> str:
    """Return a section for each operation of a document, then for each schema."""
    return "\n\n".join(_parts(document))


def _parts(document: dict[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"## {method.upper()} {path}"
            yield from _operation(operation)
    for name, schema in document["components"]["schemas"].items():
        yield f"## {name}"
        yield from _schema(schema)


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    yield operation["summary"]
    if "description" in operation:
        yield operation["description"]
    parameters = [
        (f"`{each['name']}`", each["in"], each["description"]) for each in operation.get("parameters", ())
    ]
    yield from _table(("parameter", "in", "meaning"), parameters)
    bodies = operation.get("requestBody", {}).get("content", {}).items()
    yield from _table(("body", "content"), [(f"`{kind}`", _words(each["schema"])) for kind, each in bodies])
    answers = [
        (
            status,
            answer["description"],
            ", ".join(f"`{name}`" for name in answer.get("headers", ())),
            _content(answer),
        )
        for status, answer in operation["responses"].items()
    ]
    yield from _table(("status", "meaning", "headers", "body"), answers)


def _schema(schema: dict[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield schema["description"]
    required = schema.get("required", ())
    members = [
        (f"`{member}`", _words(each), "yes" if member in required else "", each.get("description", ""))
        for member, each in schema.get("properties", {}).items()
    ]
    if others := schema.get("additionalProperties"):
        members.append(("others", "string, boolean, integer", "", others["description"]))
    if not members and "type" in schema:
        yield f"An {_words(schema)}."
    yield from _table(("member", "type", "required", "meaning"), members)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        lines = [columns, ["---"] * len(columns), *rows]
        yield "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


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
