"""Health check of a Prefect server."""

from __future__ import annotations

_TIMEOUT_SECONDS = 5
_OK = 200


def is_healthy(api_url: str) -> bool:
    """Return whether a server's API answers."""
    # Not httpx: importing it and its TLS context would take a quarter of the time of `resonant status`.
    import http.client
    import ssl
    from urllib.request import HTTPSHandler, ProxyHandler, build_opener

    handlers: list[ProxyHandler | HTTPSHandler] = [ProxyHandler({})]
    if api_url.startswith("https:"):
        import certifi

        handlers.append(HTTPSHandler(context=ssl.create_default_context(cafile=certifi.where())))
    try:
        with build_opener(*handlers).open(
            f"{api_url.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS
        ) as answer:
            return bool(answer.status == _OK)
    except (OSError, http.client.HTTPException, ValueError):
        return False
