"""Health check of a Prefect server."""

from __future__ import annotations


def is_healthy(api_url: str) -> bool:
    """Return whether a server's API answers."""
    import httpx

    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/health", timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.status_code == 200  # noqa: PLR2004 - OK
