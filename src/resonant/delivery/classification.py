"""Classification of failed sends: transient, permanent or unknown.

::

    failure
    ├── not an Exception                   CancelledError, KeyboardInterrupt, SystemExit: raised again, not classified
    ├── a user's rule                      the rule's verdict
    ├── answered with a status
    │   ├── 1xx                            unknown     a protocol anomaly
    │   ├── 3xx                            permanent   a redirect is never followed
    │   ├── 4xx                            permanent   but transient with a valid Retry-After
    │   │   ├── 408 421 423 425 429        transient   429 is ``throttled``
    │   │   ├── 407                        transient   local: the sender's proxy
    │   │   └── 410                        permanent   and gone
    │   └── 5xx                            transient
    │       └── 511                        transient   local: a captive portal
    ├── never sent
    │   ├── refused, unreachable, timeout  transient   connect_refused, unreachable, connect_timeout, connect_error
    │   ├── a name that does not resolve   transient   dns_temporary; dns_not_found is unknown
    │   ├── a certificate                  permanent   tls_certificate, and tls_client_certificate if the receiver
    │   │                                              refuses ours; any other tls_error is unknown
    │   ├── a proxy, a pool, descriptors   transient   local: proxy_error, pool_full, local_resources
    │   ├── no OAuth token                 transient   local: oauth_token, not counted in ``max_attempts``
    │   ├── a refused address              permanent   address_refused
    │   ├── a flow run, a Prefect event    permanent   run_refused, deployment_missing, event_refused; prefect_denied is local
    │   └── an invalid request             permanent   invalid_url, unsupported_protocol, invalid_request ...
    ├── a flow run that is waited for
    │   ├── not ended                      transient   run_unfinished, not counted in ``max_attempts``
    │   ├── Prefect does not answer        as below    not counted in ``max_attempts``
    │   ├── failed                         unknown     run_failed
    │   ├── crashed                        transient   run_crashed
    │   └── cancelled, or not ended in time  permanent   run_cancelled, run_overdue
    ├── possibly processed
    │   ├── no answer in time              transient   read_timeout, write_timeout, timeout
    │   ├── a connection lost              transient   connection_reset, disconnected, read_error ...
    │   └── an answer that is not HTTP     transient   bad_response
    ├── on this side
    │   ├── ValueError, TypeError ...      permanent   value_error, type_error ...
    │   ├── FileNotFoundError ...          permanent   file_not_found_error ...
    │   ├── a full or broken disk          unknown     local_storage
    │   └── any other OSError              transient   os_error
    ├── an ExceptionGroup                  transient if any member is, permanent if all are, else unknown
    └── anything else                      unknown

The classifier inspects the whole chain of causes, and the most specific one decides: httpx reports a failed certificate as
``ConnectError``. Types are looked up by name, so that no HTTP library needs to be imported.
"""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypeVar, overload

from resonant.delivery.failure_tables import (
    ANSWERED,
    CLIENT_CERTIFICATE_ALERTS,
    CLIENT_CERTIFICATE_REFUSED,
    CONNECTING,
    DNS_NOT_FOUND,
    DNS_TEMPORARY,
    EVENT_EXPIRED,
    NAME_RESOLUTION,
    NOTHING,
    PRECISE,
    RANKED,
    UNKNOWN,
    USER,
    Ranked,
)
from resonant.delivery.retry_after import parse_retry_after
from resonant.delivery.verdict import Verdict
from resonant.errors import Uncounted
from resonant.events import Blame, Category

logger = logging.getLogger(__name__)


Rule = Callable[[BaseException], Verdict | None]
_RuleT = TypeVar("_RuleT", bound=Rule)

_STATUSES = range(100, 600)
_CLIENT_ERROR = 4
_CATEGORY_BY_CLASS: Mapping[int, Category] = {3: "permanent", _CLIENT_ERROR: "permanent", 5: "transient"}
_TRANSIENT_4XX = {407, 408, 421, 423, 425, 429}
# 409 is missing, since it may mean that the receiver already has the event.
_UNPROCESSED = {*range(300, 409), *range(410, 500), 501, 503, 505, 506, 508, 510, 511}
_LOCAL_STATUSES = {407, 511}

# A chain may contain a cycle, and groups may be nested deeply.
_MAX_LINKS = 1000
_MAX_DEPTH = 20


class Classifier:
    """Classifies failures. User rules take precedence over the built-in ones; the latest rule is tried first."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    @overload
    def rule(
        self,
        exception_type: type[BaseException],
        /,
        *,
        category: Category,
        code: str,
        blame: Blame = ...,
        maybe_processed: bool = ...,
    ) -> None: ...

    @overload
    def rule(self, judge: _RuleT, /) -> _RuleT: ...

    def rule(self, what: Any, /, **verdict: Any) -> Any:
        """Register a rule, which is applied to failures and their causes.

        Args:
            what: an exception type, or a callable that takes a failure and returns a ``Verdict``, or None if the rule does
                not apply. Usable as a decorator of a callable.
            verdict: for an exception type: ``category`` and ``code``, and optionally ``blame`` and ``maybe_processed``.

        Raises:
            ValueError: invalid category, blame or code; see ``Verdict``.
        """
        if isinstance(what, type) and issubclass(what, BaseException):
            fixed = Verdict(**verdict)
            self._rules.insert(0, lambda failure: fixed if isinstance(failure, what) else None)
            return None
        self._rules.insert(0, what)
        return what

    def classify(
        self, failure: BaseException, *, now: float, overrides: Mapping[int, Category] = MappingProxyType({})
    ) -> Verdict:
        """Classify a failure.

        Args:
            failure: the exception that a send raised.
            now: the time of the answer, seconds since the epoch; used for dates in ``Retry-After``.
            overrides: the endpoint's own categories, keyed by HTTP status.

        Raises:
            BaseException: the failure itself, if it is not an ``Exception``, such as a cancellation.
        """
        if not isinstance(failure, Exception):
            raise failure
        try:
            _, verdict = _Classification(tuple(self._rules), now, overrides).judge(failure)
        except Exception as error:  # noqa: BLE001 - an exception's attributes may run any code
            name, reason = type(failure).__name__, type(error).__name__
            logger.warning("classified a %s as unknown: inspecting it raised %s", name, reason)
            return UNKNOWN
        return verdict


class _Classification:
    """One call of ``classify``: its arguments, and the number of links of the chain that it may still read."""

    def __init__(self, rules: tuple[Rule, ...], now: float, overrides: Mapping[int, Category]) -> None:
        self._rules = rules
        self._now = now
        self._overrides = overrides
        self._budget = iter(range(_MAX_LINKS))

    def judge(self, failure: BaseException, depth: int = 0) -> Ranked:
        # zip, not a slice: the whole call shares one budget
        links = [link for _, link in zip(self._budget, _chain(failure), strict=False)]
        for rule in self._rules:
            for link in links:
                if verdict := _ask(rule, link):
                    return USER, verdict

        links = [link for link in links if not _is_mask(link)]
        ranked = enumerate(self._judge_link(link, depth) for link in links)
        place, (rank, verdict) = min(ranked, key=lambda each: each[1][0], default=(0, (NOTHING, UNKNOWN)))
        if any(CONNECTING.intersection(_names(link)) for link in links[: place + 1]):
            verdict = replace(verdict, maybe_processed=False)
        free_wait = next((link.free_wait for link in links if isinstance(link, Uncounted)), None)
        return rank, verdict if verdict.category == "permanent" else replace(verdict, free_wait=free_wait)

    def _judge_link(self, link: BaseException, depth: int) -> Ranked:
        if isinstance(link, BaseExceptionGroup):
            return self._judge_group(link, depth + 1)
        ranked = self._judge_type(link)
        if isinstance(link, OSError) and isinstance(link.errno, int):
            # the errno of an aiohttp.ClientOSError is more specific than its class
            ranked = min(ranked, RANKED.get(link.errno, ranked), key=itemgetter(0))
        return ranked

    def _judge_group(self, group: BaseExceptionGroup[BaseException], depth: int) -> Ranked:
        if depth > _MAX_DEPTH:
            return NOTHING, UNKNOWN
        members = [self.judge(member, depth) for member in group.exceptions]
        categories = {verdict.category for _, verdict in members}
        decisive = next(c for c in ("transient", "unknown", "permanent") if c in categories)
        deciding = [member for member in members if member[1].category == decisive]
        # the longest Retry-After, since each is a minimum
        rank, verdict = max(deciding, key=lambda member: member[1].retry_after or 0.0)
        return rank, replace(verdict, maybe_processed=any(member.maybe_processed for _, member in members))

    def _judge_type(self, link: BaseException) -> Ranked:
        for name in _names(link):
            if name == "ssl.SSLError" and getattr(link, "reason", None) in CLIENT_CERTIFICATE_ALERTS:
                return PRECISE, CLIENT_CERTIFICATE_REFUSED
            if name in ANSWERED and (answer := _answer(link)):
                return PRECISE, self._judge_status(*answer)
            if name in NAME_RESOLUTION:
                temporary = isinstance(link, OSError) and link.errno == socket.EAI_AGAIN
                return PRECISE, DNS_TEMPORARY if temporary else DNS_NOT_FOUND
            if name in RANKED:
                return RANKED[name]
        return NOTHING, UNKNOWN

    def _judge_status(self, status: int, header: str | None) -> Verdict:
        retry_after = parse_retry_after(header, self._now)
        kind = status // 100
        category = self._overrides.get(status)
        if category is None:
            asked_to_wait = kind == _CLIENT_ERROR and retry_after is not None
            again = asked_to_wait or status in _TRANSIENT_4XX
            category = "transient" if again else _CATEGORY_BY_CLASS.get(kind, "unknown")
        return Verdict(
            category,
            _status_code(status),
            retry_after=None if category == "permanent" or kind not in _CATEGORY_BY_CLASS else retry_after,
            blame="local" if status in _LOCAL_STATUSES else "endpoint",
            maybe_processed=status not in _UNPROCESSED,
            gone=status == HTTPStatus.GONE and category == "permanent",
        )


classifier = Classifier()
classify = classifier.classify


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """Yield a failure and its causes: each one's ``__cause__``, else its ``__context__``.

    This includes suppressed contexts: httpcore uses ``raise exc from None``, and only the context has the original error.
    """
    seen: set[int] = set()
    link: BaseException | None = failure
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__context__ if link.__cause__ is None else link.__cause__


def _names(link: BaseException) -> list[str]:
    """Return a failure's classes as package and class, the most derived first: ``aiohttp.ClientOSError``, ..."""
    return [f"{_package(kind)}.{kind.__qualname__}" for kind in type(link).__mro__]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_mask(link: BaseException) -> bool:
    """Return whether a link only wraps an aiohttp error, which is then classified instead.

    httpx-aiohttp turns every connection error into a ``ConnectTimeout``, even if the request had been sent, and aiohttp
    reports an answer that is not HTTP as status 400.
    """
    cause = link.__cause__
    return (
        cause is not None
        and _package(type(cause)) == "aiohttp"
        and _package(type(link)) in {"aiohttp", "httpx"}
    )


def _ask(rule: Rule, link: BaseException) -> Verdict | None:
    """Apply a user's rule. A broken rule is ignored, so that it cannot lose the event."""
    name = getattr(rule, "__qualname__", type(rule).__qualname__)
    try:
        verdict = rule(link)
    except Exception as error:  # noqa: BLE001 - a rule may run any code
        problem = f"raised {type(error).__name__}"
    else:
        if verdict is None or isinstance(verdict, Verdict):
            return verdict
        problem = f"returned {type(verdict).__name__}, not a Verdict,"
    # no traceback: it would include the failure, and possibly a URL
    logger.warning("classifier rule %s %s and is ignored", name, problem)
    return None


def _answer(failure: Any) -> tuple[int, str | None] | None:
    """Return the status and the raw ``Retry-After`` of a failure of any library; None if it has no status."""
    response = getattr(failure, "response", None)
    answer = failure if response is None else response  # a requests.Response with a status of 400 is falsy
    status = getattr(answer, "status_code", getattr(answer, "status", None))
    if not isinstance(status, int):
        return None
    headers = getattr(answer, "headers", None)
    header = (
        headers.get("Retry-After") if isinstance(headers, Mapping) else getattr(answer, "retry_after", None)
    )
    return status, header if isinstance(header, str) else None


def _status_code(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "throttled"
    return f"http_{status}" if status in _STATUSES else "http_other"


def built_in_codes() -> set[str]:
    """Return every code of the built-in rules."""
    by_status = {_status_code(status) for status in (*_STATUSES, 0)}
    by_type = {verdict.code for _, verdict in RANKED.values()}
    # Some codes are in no table: unknown failures, temporary DNS errors, and workers lost during a send.
    others = (UNKNOWN, DNS_TEMPORARY, DNS_NOT_FOUND, EVENT_EXPIRED, CLIENT_CERTIFICATE_REFUSED)
    return by_status | by_type | {verdict.code for verdict in others} | {"worker_lost"}
