"""What an operator should do about similar dead letters, on one line."""

from __future__ import annotations

import shlex

# {replay} is the whole command. It skips permanent failures unless it has --include-permanent.
_WAIT = "wait until it answers (`resonant endpoint test {endpoint}`), then {slow_replay}"
_CREDENTIAL = (
    "fix the endpoint's credential (`resonant endpoint update {endpoint} --header @FILE`, or --url; its signing secret by "
    "`resonant endpoint rotate-secret {endpoint}`), then {replay}"
)
_URL = "fix the endpoint's URL (`resonant endpoint update {endpoint} --url URL`), then {replay}"
_PAYLOAD = (
    "the receiver refuses these events: look at one (`resonant detail {event_id}`), fix the producer or the receiver, then "
    "{replay}, or purge"
)
_GONE = (
    "the endpoint says that it is gone for good: remove it (`resonant endpoint remove {endpoint}`), and purge"
)
_ADDRESS = (
    "fix the endpoint's URL (`resonant endpoint update {endpoint} --url URL`), or permit private addresses (--allow-private), "
    "then {replay}"
)
_TLS = "check that the endpoint's URL (`resonant endpoint update {endpoint} --url URL`) names a port that speaks TLS, then {replay}"
_CERTIFICATE = "have the certificate renewed or its name fixed, then {replay}"
_NAME = (
    "check the name in the endpoint's URL (`resonant endpoint update {endpoint} --url URL`) and this machine's resolver, "
    "then {replay}"
)
_SLOWER = "it asks for less: once it has caught up, {slow_replay}"
_HERE = "the fault is on this side (connections, proxy, disk or code): fix it here, then {replay}"
_CRASHED = (
    "workers were lost while sending: look at their memory and logs, and at the events' size, before a replay"
)
_EXPIRED = "it failed for longer than the policy's max_age: {replay} once it answers, or raise max_age"
_CANCELLED = "an operator gave these up (`resonant audit` says who): replay them only if that was wrong"
_UNKNOWN = "look at one (`resonant detail {event_id}`), and give the classifier a rule for this failure"

_BY_REASON = {"crashed": _CRASHED, "cancelled": _CANCELLED}
# Only if they are permanent: a Retry-After or the endpoint's override makes them transient.
_BY_PERMANENT_CODE = {
    "http_401": _CREDENTIAL,
    "http_402": _CREDENTIAL,
    "http_403": _CREDENTIAL,
    "http_404": _URL,
    "http_405": _URL,
    "http_410": _GONE,
}
_BY_CODE = {
    "http_407": _HERE,
    "http_511": _HERE,
    "throttled": _SLOWER,
    "too_many_redirects": _URL,
    "address_refused": _ADDRESS,
    "endpoint_error": _URL,
    "invalid_url": _URL,
    "unsupported_protocol": _URL,
    "tls_certificate": _CERTIFICATE,
    "tls_error": _TLS,
    "dns_not_found": _NAME,
    "dns_temporary": _NAME,
    "local_resources": _HERE,
    "local_storage": _HERE,
    "pool_full": _HERE,
    "proxy_error": _HERE,
}
# The request was sent completely, but no answer came in time.
_SENT_WITHOUT_ANSWER = {"http_504", "http_524", "read_timeout", "timeout"}


def advise(
    *,
    code: str,
    reason: str,
    category: str,
    endpoint: str = "NAME",
    event_id: str = "ID",
    maybe_processed: bool = False,
) -> str:
    """Return what to do about dead letters with this code, reason and category, which may be empty.

    Args:
        code, reason, category, endpoint: those of the dead letters.
        event_id: an example.
        maybe_processed: whether the receiver may have processed them.
    """
    is_permanent = category == "permanent"
    line = _BY_REASON.get(reason) or _BY_CODE.get(code)
    if line is None and is_permanent:
        line = _BY_PERMANENT_CODE.get(code) or _of_permanent(code)
    if line is None and reason == "expired":
        line = _EXPIRED
    if line is None:
        line = _WAIT if category == "transient" else _UNKNOWN
    what = f"--code {shlex.quote(code)}" if code else f"--reason {reason}"
    replay = f"resonant replay --endpoint {endpoint} {what}{' --include-permanent' if is_permanent else ''}"
    line = line.format(
        replay=f"`{replay}`",
        slow_replay=f"`{replay} --rate 10`",
        endpoint=endpoint,
        event_id=shlex.quote(event_id),
    )
    return f"{processed(code)}: check the receiver before a replay; {line}" if maybe_processed else line


def processed(code: str) -> str:
    """Describe how likely the receiver processed a possibly processed event that failed with this code."""
    return "probably processed" if code in _SENT_WITHOUT_ANSWER else "possibly processed"


def _of_permanent(code: str) -> str:
    if code.startswith("http_3"):
        return _URL
    return _PAYLOAD if code.startswith("http_") else _HERE
