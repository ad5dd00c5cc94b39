"""Checks of a Prefect server from outside, without its password."""

from __future__ import annotations


def is_healthy(api_url: str) -> bool:
    """Return whether a server's API answers."""
    return _answers_well(api_url, "health")


def is_open_to_all(api_url: str) -> bool:
    """Return whether a server's API answers without a password."""
    return _answers_well(api_url, "admin/version")


def _answers_well(api_url: str, path: str) -> bool:
    import httpx

    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/{path}", timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.status_code == 200  # noqa: PLR2004 - OK
