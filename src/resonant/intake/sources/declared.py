"""Reads the file of ``--sources``. It refers to secrets, and contains none."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resonant.declared_file import REFERENCES, read_declarations, resolve
from resonant.errors import InvalidEvent
from resonant.events import ENDPOINT_NAME
from resonant.events.attributes import extensions_json
from resonant.intake.sources.schemes import SCHEMES, TOLERANCE_SECONDS, Algorithm, Encoding, Options, Scheme
from resonant.intake.sources.source import Source, is_reserved
from resonant.intake.sources.templates import Template
from resonant.settings import first_problem
from resonant.suggestions import did_you_mean

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_OF_OPTIONS = ("header", "algorithm", "encoding", "prefix", "url")
_FOR_SOME = (*_OF_OPTIONS, "tolerance")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    verify: str
    secret: str | Annotated[list[str], Field(min_length=1)] | None = None
    type: str | None = None
    source: str | None = None
    id: str | None = None
    subject: str | None = None
    extensions: dict[str, str] = {}
    tolerance: Annotated[float, Field(gt=0, le=86_400)] | None = None
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    on_conflict: Literal["refuse", "keep"] = "refuse"
    unrouted: Literal["keep", "refuse"] = "keep"
    endpoint: str | None = None
    header: str | None = None
    algorithm: Algorithm | None = None
    encoding: Encoding | None = None
    prefix: str | None = None
    url: str | None = None


def read_sources(path: Path) -> dict[str, Source]:
    """Return the sources of a file by name.

    Raises:
        ValueError: the file cannot be read, or a source is invalid. The message names the file, and contains no secret.
    """
    try:
        content = read_declarations(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        problem = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path}: {problem}") from None
    match content:
        case {"sources": [*rows]} | [{"sources": [*rows]}] if len(content) == 1:
            pass
        case _:
            raise ValueError(f"{path}: must be a list of sources under the key sources")
    found: dict[str, Source] = {}
    for number, row in enumerate(rows, 1):
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{path}: source {number} must have a name of lower case letters, digits and single dashes"
            )
        if name in found:
            raise ValueError(f"{path}: source {name!r} is declared twice")
        try:
            found[name] = _source(row, path)
        except ValueError as error:
            raise ValueError(f"{path}: source {name!r}: {error}") from None
    return found


def _row(fields: Mapping[str, Any]) -> tuple[_Row, Scheme]:
    for key in fields:
        if key not in _Row.model_fields:
            raise ValueError(f"unknown setting {key!r:.60}{did_you_mean(str(key), [*_Row.model_fields])}")
    try:
        row = _Row.model_validate(dict(fields))
    except ValidationError as error:
        (setting, *_), problem = first_problem(error)
        raise ValueError(f"{setting}: {problem}") from None
    if row.verify not in SCHEMES:
        raise ValueError(f"verify must be one of {', '.join(SCHEMES)}{did_you_mean(row.verify, [*SCHEMES])}")
    scheme = SCHEMES[row.verify]
    for key in scheme.needs:
        if not getattr(row, key):
            raise ValueError(f"verify: {row.verify} needs the setting {key}")
    for key in _FOR_SOME:
        if getattr(row, key) is not None and key not in (*scheme.needs, *scheme.takes):
            raise ValueError(f"verify: {row.verify} takes no {key}")
    if row.endpoint is not None and not ENDPOINT_NAME.fullmatch(row.endpoint):
        raise ValueError("endpoint must be the name of an endpoint")
    return row, scheme


def _source(fields: Mapping[str, Any], path: Path) -> Source:
    row, scheme = _row(fields)
    given = {key: value for key in _OF_OPTIONS if (value := getattr(row, key)) is not None}
    templates = {
        "type": row.type or scheme.type,
        "source": row.source or scheme.source.replace("{name}", row.name),
        "subject": row.subject or "",
    }
    parsed = {key: _template(key, text) for key, text in templates.items()}
    if any(is_reserved(parsed[key].start) for key in ("type", "source")):
        raise ValueError("types and sources that begin with resonant or /resonant are reserved")
    _require_extensions(dict.fromkeys(row.extensions, "x"))
    return Source(
        name=row.name,
        verify=row.verify,
        scheme=scheme,
        options=Options(_secrets(row, path), **scheme.sets, **given),
        type=parsed["type"],
        source=parsed["source"],
        ids=[_template("id", text) for text in ([row.id] if row.id else scheme.ids)],
        subject=parsed["subject"] if row.subject else None,
        extensions={name: _template(name, text) for name, text in row.extensions.items()},
        tolerance=row.tolerance or TOLERANCE_SECONDS,
        max_bytes=row.max_bytes,
        rate=row.rate,
        keeps_conflicts=row.on_conflict == "keep",
        keeps_unrouted=row.unrouted == "keep",
        endpoint=row.endpoint,
    )


def _require_extensions(names: Mapping[str, str]) -> None:
    try:
        extensions_json(names)
    except InvalidEvent as error:
        raise ValueError(str(error)) from None


def _template(key: str, text: str) -> Template:
    try:
        return Template.parse(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _secrets(row: _Row, path: Path) -> tuple[str, ...]:
    given = [row.secret] if isinstance(row.secret, str) else row.secret or []
    if bool(given) == (row.verify == "none"):
        raise ValueError(f"verify: {row.verify} {'takes no' if given else 'needs a'} secret")
    if any(not each.startswith(REFERENCES) for each in given):
        raise ValueError("secret must be env:NAME or file:PATH: the file holds no secrets")
    found = tuple(resolve(each, path.name, path.parent) for each in given)
    for each in found:
        if row.verify == "basic" and ":" not in each:
            raise ValueError("the secret must be USER:PASSWORD")
        if row.verify == "standard-webhooks" and not _is_base64(each.removeprefix("whsec_")):
            raise ValueError("the secret must be whsec_ and base64")
    return found


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False
