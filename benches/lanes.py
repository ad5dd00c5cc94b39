"""The lanes of an emission: what makes each, as parameters of ``emit_events``."""

from __future__ import annotations

from typing import Any, Literal

Lane = Literal["task", "bulk"]
LANES: dict[Lane, dict[str, Any]] = {"task": {}, "bulk": {"chunk_size": 500}}
