"""The description of the HTTP interface: an OpenAPI 3.1 document, from which ``/docs`` and the reference are made.

``openapi.yaml`` has the document. The values that the code decides are filled in here: limits, patterns and names.
"""

import re
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from typing import Any, get_args

import yaml

from resonant.errors import InvalidEventCode
from resonant.events import ENDPOINT_NAME, OWN_SOURCE, OWN_TYPES, Reason, Status, attributes
from resonant.intake.limits import IntakeLimits

# JSON Schema knows no \U, so these are written as characters.
_ALLOWED = rf"[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef{attributes.NONCHARACTERS}]"
_WEBHOOKS = "/sources/{name}"
_NAME = "[A-Za-z0-9!#$%&'*+.^_`|~-]"
_VALUES = {
    "longest_attribute": attributes.MAX_ATTRIBUTE_CHARACTERS,
    "longest_extension": attributes.MAX_EXTENSION_CHARACTERS,
    "most_extensions": attributes.MAX_EXTENSIONS,
    "own_source": OWN_SOURCE,
    "own_types": f"^{re.escape(OWN_TYPES)}",
    "text": f"^{_ALLOWED}*$",
    "media_type": f"^{attributes.MEDIA_TYPE}$",
    "json_type": f"^{_NAME}+/({_NAME}*[+])?[Jj][Ss][Oo][Nn] *(;|$)",
    "absolute_uri": f"^{attributes.ABSOLUTE_URI}$",
    "endpoint_name": f"^{ENDPOINT_NAME.pattern}$",
    # IDEMPOTENCY_KEY, without the names of its groups.
    "idempotency_key": r'^("[!#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255})$',
    "statuses": [*get_args(Status)],
    "reasons": [*get_args(Reason), None],
    "codes": [*get_args(InvalidEventCode), "conflict", "forbidden", "unrouted"],
}


def openapi(limits: IntakeLimits, *, needs_token: bool, has_sources: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        limits: of the server.
        needs_token: whether requests need a token.
        has_sources: whether it takes webhooks of other services.
    """
    values = (
        _VALUES | asdict(limits) | {"version": version("resonant"), "batch_mib": limits.batch_bytes / 2**20}
    )

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_constructor("!value", lambda _, node: values[node.value])
    Loader.add_constructor("!text", lambda _, node: node.value.format_map(values))
    text = (files(__package__) / "openapi.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.load(text, Loader)  # noqa: S506 - a safe loader
    shared = document.pop("shared")
    if not needs_token:
        _remove_tokens(document, shared["foreign_page"])
    if not has_sources:
        del document["paths"][_WEBHOOKS], document["components"]["schemas"]["Received"]
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return document


def _remove_tokens(document: dict[str, Any], foreign_page: dict[str, Any]) -> None:
    del document["components"]["securitySchemes"]
    for path, methods in document["paths"].items():
        for operation in methods.values() if path != _WEBHOOKS else ():  # these need no token in any case
            operation["security"] = []
            others = {"403": foreign_page} | operation["responses"]
            operation["responses"] = {key: others[key] for key in others if key not in ("401", "429")}
