"""One-line advice for operators about dead letters."""

import shlex
from collections.abc import Mapping

# {replay} is the whole command. It skips permanent failures unless it has --include-permanent.
_WAIT = "wait until it answers (`resonant endpoint test {endpoint}`), then {slow_replay}"
_CREDENTIAL = (
    "fix the endpoint's credential (`resonant endpoint update {endpoint} --header @FILE`, or --url; for its signing secret, "
    "`resonant endpoint rotate-secret {endpoint}`), then {replay}"
)
_URL = "fix the endpoint's URL (`resonant endpoint update {endpoint} --url URL`), then {replay}"
_PAYLOAD = (
    "the receiver rejects these events: inspect one (`resonant detail {event_id}`), fix the producer or the receiver, then "
    "{replay}, or {purge}"
)
_HEADERS = (
    "the events' attributes are too long for the receiver's headers: send them in the body "
    "(`resonant endpoint update {endpoint} --mode structured`), then {replay}"
)
_GONE = "the endpoint answers that it is gone for good: remove it (`resonant endpoint remove {endpoint}`), then {purge}"
_ADDRESS = (
    "fix the endpoint's URL (`resonant endpoint update {endpoint} --url URL`), or permit private addresses (--allow-private), "
    "then {replay}"
)
_TLS = "check that the endpoint's URL (`resonant endpoint update {endpoint} --url URL`) has a port that speaks TLS, then {replay}"
_CERTIFICATE = (
    "ask for a certificate that is valid and has the right name, or trust its authority "
    "(`resonant endpoint update {endpoint} --ca-file FILE`), then {replay}"
)
_CLIENT_CERTIFICATE = (
    "set a client certificate that is valid and that the receiver accepts (`resonant endpoint update {endpoint} --client-cert FILE "
    "--client-key FILE`; `resonant endpoint show {endpoint}` says when the saved one expires), then {replay}"
)
_NAME = (
    "check the name in the endpoint's URL (`resonant endpoint update {endpoint} --url URL`) and this machine's resolver, "
    "then {replay}"
)
_SLOWER = "it limits the rate: once it has caught up, {slow_replay}"
_HERE = "the fault is local (connections, proxy, disk or code): fix it, then {replay}"
_CRASHED = "workers were lost while sending: check their memory and logs, and the size of the events, before a replay"
_EXPIRED = "it failed for longer than the policy's max_age, or until the event's expirytime: {replay} once it answers, or raise max_age"
_EVENT_EXPIRED = "the event's expirytime passed before it was sent, and a replay would not send it: {purge}"
_CANCELLED = (
    "an operator cancelled these (`resonant audit` shows who): replay them only if that was a mistake"
)
_UNKNOWN = "inspect one (`resonant detail {event_id}`), and add a rule for this failure to the classifier"

_DEPLOYMENT = (
    "deploy the flow again, or name its deployment (`resonant endpoint add {endpoint} --deployment FLOW/DEPLOYMENT --overwrite`), "
    "then {replay}"
)
_RUN = (
    "compare an event (`resonant detail {event_id}`) with the parameters of the flow (`resonant endpoint show {endpoint}`), fix the flow "
    "or the endpoint, then {replay}, or {purge}"
)
_RUN_FAILED = "see its run (`resonant detail {event_id}`), fix the flow or its infrastructure, then {replay} starts a new run"
_RUN_CANCELLED = "an operator or a concurrency limit of Prefect cancelled the run (`resonant detail {event_id}`): {replay} starts a new run"
_RUN_UNFINISHED = (
    "its run had not ended in time: see it (`resonant detail {event_id}`), then {replay} waits for it again"
)
_EVENT = "Prefect cannot keep these events: inspect one (`resonant detail {event_id}`), fix the producer or the endpoint's API URL, then {replay}, or {purge}"
_DENIED = "the fault is local (the key for Prefect): fix PREFECT_API_KEY or PREFECT_API_AUTH_STRING where Resonant sends, or the API key of the endpoint's block, then {replay}"

_BY_REASON = {"crashed": _CRASHED, "cancelled": _CANCELLED}
# Only for permanent failures: a Retry-After or an override of the endpoint makes these codes transient.
_BY_PERMANENT_CODE = {
    **dict.fromkeys(("http_401", "http_402", "http_403"), _CREDENTIAL),
    **dict.fromkeys(("http_404", "http_405"), _URL),
    "http_410": _GONE,
    "http_431": _HEADERS,
}
_OAUTH = (
    "the fault is local (no OAuth token): `resonant endpoint test {endpoint}` says why; correct the URL of the token server "
    "(`resonant endpoint update {endpoint} --oauth-token-url URL`), --oauth-client-id or --oauth-client-secret-file, then {replay}"
)
_SETTING = "the fault is local (a setting of the endpoint): correct the one that `resonant endpoint test {endpoint}` names, then {replay}"


def _set(what: str, options: str) -> str:
    repair = f"{what}: `resonant endpoint update {{endpoint}} {options}`"
    return f"the fault is local (a setting of the endpoint): set {repair}, then {{replay}}"


# For ``endpoint_error``, by words of the error; the first that fit.
_SETTINGS: Mapping[str, str] = {
    "its ca_file": _set("--ca-file to a readable file", "--ca-file FILE"),
    "its client certificate": _set(
        "--client-cert and --client-key to readable files of a valid certificate and its key",
        "--client-cert FILE --client-key FILE",
    ),
    "its OAuth token URL": _set("the URL of the token server", "--oauth-token-url URL"),
    "its OAuth settings": _set(
        "all of these", "--oauth-token-url URL --oauth-client-id ID --oauth-client-secret-file FILE"
    ),
    "whsk_": (  # the error names the kinds of signing secrets
        "the fault is local (a setting of the endpoint): set a new signing secret (`resonant endpoint rotate-secret {endpoint}`), "
        "then {replay}"
    ),
    "its proxy": _set("the proxy", "--proxy URL"),
    "its headers": _set("its headers again", "--header @FILE"),
    "its URL": _set("the URL", "--url URL"),
}
_LOCAL = ("http_407", "http_511", "local_resources", "local_storage", "pool_full", "proxy_error")
_MISCONFIGURED = ("too_many_redirects", "invalid_url", "unsupported_protocol")
_BY_CODE = {
    **dict.fromkeys(_LOCAL, _HERE),
    **dict.fromkeys(_MISCONFIGURED, _URL),
    **dict.fromkeys(("dns_not_found", "dns_temporary"), _NAME),
    "oauth_token": _OAUTH,
    "endpoint_error": _SETTING,
    "deployment_missing": _DEPLOYMENT,
    "run_refused": _RUN,
    "event_refused": _EVENT,
    **dict.fromkeys(("run_failed", "run_crashed"), _RUN_FAILED),
    **dict.fromkeys(("run_unfinished", "run_overdue"), _RUN_UNFINISHED),
    "run_cancelled": _RUN_CANCELLED,
    "prefect_denied": _DENIED,
    "event_expired": _EVENT_EXPIRED,
    "throttled": _SLOWER,
    "address_refused": _ADDRESS,
    "tls_certificate": _CERTIFICATE,
    "tls_client_certificate": _CLIENT_CERTIFICATE,
    "tls_error": _TLS,
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
    source: str | None = None,
    error: str = "",
    cause: str = "",
    maybe_processed: bool = False,
) -> str:
    """Return advice about dead letters with this code, reason and category; any of them may be empty.

    Args:
        code, reason, category, endpoint: common to the dead letters.
        event_id: the event id of an example.
        source: its source, if commands need it.
        error: their error text, whose variable parts may be replaced.
        cause: the fingerprint of their group, if the advice is about a whole group.
        maybe_processed: whether the receiver may have processed them.
    """
    is_permanent = category == "permanent"
    line = _BY_REASON.get(reason) or _of_setting(code, error) or _BY_CODE.get(code)
    if line is None and is_permanent:
        line = _BY_PERMANENT_CODE.get(code) or _of_permanent(code)
    if line is None and reason == "expired":
        line = _EXPIRED
    if line is None:
        line = _WAIT if category == "transient" else _UNKNOWN
    what = f"--code {shlex.quote(code)}" if code else f"--reason {reason}"
    replay = f"resonant replay --endpoint {endpoint} {what}{' --include-permanent' if is_permanent else ''}"
    purge = f"resonant purge --endpoint {endpoint} {f'--cause {cause}' if cause else what}"
    line = line.format(
        purge=f"`{purge}`",
        replay=f"`{replay}`",
        slow_replay=f"`{replay} --rate 10`",
        endpoint=endpoint,
        event_id=shlex.quote(event_id) + (f" --source {shlex.quote(source)}" if source else ""),
    )
    return f"{processed(code)}: check the receiver before a replay; {line}" if maybe_processed else line


def processed(code: str) -> str:
    """Return whether the receiver probably or only possibly processed an event that failed with this code."""
    return "probably processed" if code in _SENT_WITHOUT_ANSWER else "possibly processed"


def _of_setting(code: str, error: str) -> str | None:
    found = (line for words, line in _SETTINGS.items() if words in error)
    return next(found, None) if code == "endpoint_error" else None


def _of_permanent(code: str) -> str:
    if code.startswith("http_3"):
        return _URL
    return _PAYLOAD if code.startswith("http_") else _HERE
