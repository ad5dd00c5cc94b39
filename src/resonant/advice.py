"""What to do about dead letters that failed alike: one line that an operator can act on."""

from __future__ import annotations

_WAIT = "wait until it answers (`resonant endpoint test NAME`), then replay slowly: --rate 10"
_CREDENTIAL = (
    "fix the endpoint's credential (`resonant endpoint add NAME`), then replay with --include-permanent"
)
_URL = "fix the endpoint's URL (`resonant endpoint add NAME`), then replay with --include-permanent"
_PAYLOAD = (
    "the receiver refuses these events: look at one (`resonant detail ID`), fix the producer or the receiver, then "
    "replay with --include-permanent, or purge"
)
_GONE = "the endpoint says that it is gone for good: remove it, or purge"
_CERTIFICATE = "have the certificate renewed or its name fixed, then replay with --include-permanent"
_NAME = "check the name in the endpoint's URL and this machine's resolver, then replay"
_SLOWER = "it asks for less: replay with a low --rate once it has caught up"
_HERE = "the fault is on this side (connections, proxy, disk or code): mend it here, then replay"
_CRASHED = (
    "workers were lost while sending: look at their memory and logs, and at the events' size, before a replay"
)
_EXPIRED = "it was away for longer than the policy's max_age: replay once it answers, or raise max_age"
_CANCELLED = "an operator gave these up (`resonant audit` says who): replay them only if that was wrong"
_UNKNOWN = "look at one (`resonant detail ID`), and give the classifier a rule for this failure"

_BY_REASON = {"crashed": _CRASHED, "cancelled": _CANCELLED}
_BY_CODE = {
    "http_401": _CREDENTIAL,
    "http_402": _CREDENTIAL,
    "http_403": _CREDENTIAL,
    "http_404": _URL,
    "http_405": _URL,
    "http_407": _HERE,
    "http_410": _GONE,
    "http_429": _SLOWER,
    "throttled": _SLOWER,
    "too_many_redirects": _URL,
    "address_refused": _URL,
    "endpoint_error": _URL,
    "invalid_url": _URL,
    "unsupported_protocol": _URL,
    "tls_certificate": _CERTIFICATE,
    "tls_error": _CERTIFICATE,
    "dns_not_found": _NAME,
    "dns_temporary": _NAME,
    "local_resources": _HERE,
    "local_storage": _HERE,
    "pool_full": _HERE,
    "proxy_error": _HERE,
}


def advise(*, code: str, reason: str, category: str) -> str:
    """Return what to do about dead letters with this code, reason and category; empty texts stand for none."""
    known = _BY_REASON.get(reason) or _BY_CODE.get(code)
    if known:
        return known
    if category == "permanent":
        if code.startswith("http_3"):
            return _URL
        return _PAYLOAD if code.startswith("http_4") else _HERE
    if reason == "expired":
        return _EXPIRED
    return _WAIT if category == "transient" else _UNKNOWN
