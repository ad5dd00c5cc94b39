"""What a failed send means: try again, do not, or nobody knows.

::

    failure
    ├── is no Exception                    CancelledError, KeyboardInterrupt, SystemExit: raised again, never judged
    ├── a user's rule                      whatever it says
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
    │   ├── a certificate                  permanent   tls_certificate; any other tls_error is unknown
    │   ├── a proxy, a pool, descriptors   transient   local: proxy_error, pool_full, local_resources
    │   ├── an address we do not go to     permanent   address_refused
    │   └── a request that is wrong        permanent   invalid_url, unsupported_protocol, invalid_request ...
    ├── perhaps processed
    │   ├── no answer in time              transient   read_timeout, write_timeout, timeout
    │   ├── a connection lost              transient   connection_reset, disconnected, read_error ...
    │   └── an answer that is no HTTP      transient   bad_response
    ├── our own
    │   ├── ValueError, TypeError ...      permanent   value_error, type_error ...
    │   ├── FileNotFoundError ...          permanent   file_not_found_error ...
    │   ├── a disk that is full or broken  unknown     local_storage
    │   └── any other OSError              transient   os_error
    ├── an ExceptionGroup                  transient if any member is, permanent if all are, else unknown
    └── anything else                      unknown

A failure is judged with all that led to it, and the most telling link decides: httpx reports a failed certificate as
``ConnectError``. Types are looked up by name, so that no HTTP library is imported to know its errors.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar, get_args, overload

from resonant.events import Blame, Category

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says of a failure.

    Attributes:
        category: ``transient`` is worth a retry, ``permanent`` is not, ``unknown`` is worth a few.
        code: a short label from a bounded set, for metrics: ``http_503``, ``connect_refused``, ...
        retry_after: seconds that the receiver asks to wait, None where it asks for nothing.
        blame: ``local`` is nothing that the endpoint could be charged with.
        maybe_processed: whether the receiver may have acted on the request.
        gone: whether the receiver says that it will never come back (410).

    Raises:
        ValueError: the category, the blame or the form of the code is none.
    """

    category: Category
    code: str
    retry_after: float | None = None
    blame: Blame = "endpoint"
    maybe_processed: bool = False
    gone: bool = False

    def __post_init__(self) -> None:
        if self.category not in get_args(Category) or self.blame not in get_args(Blame):
            raise ValueError(f"no such category or blame: {self.category!r}, {self.blame!r}")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.code):
            raise ValueError(f"a code is lower case letters, digits and _, at most 41: {self.code!r}")


Rule = Callable[[BaseException], Verdict | None]
_RuleT = TypeVar("_RuleT", bound=Rule)
_Key = str | int  # "package.Class" or an errno
_Ranked = tuple[int, Verdict]

# How telling a link of the chain is. The most telling one decides, and of equals the outermost.
_USER, _PRECISE, _WRAPPER, _OWN, _LAST, _NOTHING = range(6)

_UNKNOWN = Verdict("unknown", "unknown", maybe_processed=True)
_DNS_TEMPORARY = Verdict("transient", "dns_temporary")
_DNS_NOT_FOUND = Verdict("unknown", "dns_not_found")
_BAD_RESPONSE = Verdict("transient", "bad_response", maybe_processed=True)
_BAD_ENCODING = Verdict("unknown", "bad_response", maybe_processed=True)  # deterministic, most likely
_TLS_ERROR = Verdict("unknown", "tls_error", maybe_processed=True)
_OS_ERROR = Verdict("transient", "os_error")


def _sent(code: str) -> Verdict:
    """Judge a failure after which the request may have been processed."""
    return Verdict("transient", code, maybe_processed=True)


def _local(category: Category, code: str) -> Verdict:
    return Verdict(category, code, blame="local")


# Which errors mean what: a class by its top-level package and its name, or an errno.
_TABLES: Mapping[int, Mapping[Verdict, tuple[_Key, ...]]] = {
    _PRECISE: {
        Verdict("transient", "connect_refused"): ("builtins.ConnectionRefusedError", errno.ECONNREFUSED),
        Verdict("transient", "connect_timeout"): (
            "httpx.ConnectTimeout",
            "aiohttp.ConnectionTimeoutError",
            "requests.ConnectTimeout",
            "urllib3.ConnectTimeoutError",
        ),
        Verdict("transient", "unreachable"): (
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
        ),
        _local("transient", "local_resources"): (
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOBUFS,
            errno.ENOMEM,
            errno.EADDRNOTAVAIL,  # no ephemeral port is left
        ),
        _local("transient", "pool_full"): ("httpx.PoolTimeout", "urllib3.EmptyPoolError"),
        _local("transient", "proxy_error"): (
            "httpx.ProxyError",
            "aiohttp.ClientProxyConnectionError",
            "aiohttp.ClientHttpProxyError",
            "requests.ProxyError",
            "urllib3.ProxyError",
        ),
        Verdict("permanent", "tls_certificate"): (
            "ssl.SSLCertVerificationError",
            "aiohttp.ClientConnectorCertificateError",
            "aiohttp.ServerFingerprintMismatch",
        ),
        _TLS_ERROR: ("ssl.SSLError",),
        _sent("disconnected"): (
            "aiohttp.ServerDisconnectedError",
            "http.RemoteDisconnected",
            "ssl.SSLEOFError",
            "ssl.SSLZeroReturnError",
        ),
        _sent("connection_reset"): (
            "builtins.ConnectionResetError",
            "aiohttp.ClientConnectionResetError",
            errno.ECONNRESET,
        ),
        _sent("connection_aborted"): ("builtins.ConnectionAbortedError", errno.ECONNABORTED),
        _sent("broken_pipe"): ("builtins.BrokenPipeError", errno.EPIPE),
        _sent("read_timeout"): (
            "httpx.ReadTimeout",
            "aiohttp.SocketTimeoutError",
            "requests.ReadTimeout",
            "urllib3.ReadTimeoutError",
        ),
        _sent("write_timeout"): ("httpx.WriteTimeout",),
        _sent("timeout"): ("builtins.TimeoutError", errno.ETIMEDOUT),
        _BAD_RESPONSE: (
            "httpx.RemoteProtocolError",
            "aiohttp.HttpProcessingError",
            "aiohttp.ClientPayloadError",
            "requests.ChunkedEncodingError",
            "http.BadStatusLine",
            "http.IncompleteRead",
            "http.LineTooLong",
        ),
        _BAD_ENCODING: ("httpx.DecodingError", "requests.ContentDecodingError"),
        Verdict("permanent", "address_refused"): ("resonant.AddressRefused",),
        Verdict("permanent", "endpoint_error"): ("resonant.EndpointError",),
        Verdict("permanent", "invalid_url"): (
            "httpx.InvalidURL",
            "aiohttp.InvalidURL",
            "requests.InvalidURL",
            "requests.MissingSchema",
            "requests.URLRequired",
        ),
        Verdict("permanent", "unsupported_protocol"): (
            "httpx.UnsupportedProtocol",
            "aiohttp.NonHttpUrlClientError",
            "requests.InvalidSchema",
        ),
        Verdict("permanent", "invalid_request"): ("httpx.LocalProtocolError", "requests.InvalidHeader"),
        Verdict("permanent", "too_many_redirects"): (
            "httpx.TooManyRedirects",
            "aiohttp.TooManyRedirects",
            "requests.TooManyRedirects",
        ),
        Verdict("permanent", "cookie_conflict"): ("httpx.CookieConflict",),
        Verdict("permanent", "stream_error"): ("httpx.StreamError", "requests.StreamConsumedError"),
    },
    _WRAPPER: {
        Verdict("transient", "connect_error"): (
            "httpx.ConnectError",
            "aiohttp.ClientConnectorError",
            "urllib3.NewConnectionError",
        ),
        _DNS_NOT_FOUND: ("urllib3.NameResolutionError",),
        _TLS_ERROR: ("aiohttp.ClientConnectorSSLError", "requests.SSLError", "urllib3.SSLError"),
        _sent("timeout"): ("httpx.TimeoutException", "aiohttp.ServerTimeoutError", "requests.Timeout"),
        _sent("read_error"): ("httpx.ReadError",),
        _sent("write_error"): ("httpx.WriteError",),
        _sent("connection_error"): (
            "builtins.ConnectionError",
            "httpx.NetworkError",
            "aiohttp.ClientConnectionError",
            "requests.ConnectionError",
            "urllib3.ProtocolError",
        ),
        _sent("transport_error"): (
            "httpx.TransportError",
            "aiohttp.ClientError",
            "requests.RequestException",
        ),
    },
    _OWN: {
        _local("permanent", "value_error"): ("builtins.ValueError",),
        _local("permanent", "type_error"): ("builtins.TypeError",),
        _local("permanent", "lookup_error"): ("builtins.LookupError",),
        _local("permanent", "key_error"): ("builtins.KeyError",),
        _local("permanent", "index_error"): ("builtins.IndexError",),
        _local("permanent", "attribute_error"): ("builtins.AttributeError",),
        _local("permanent", "assertion_error"): ("builtins.AssertionError",),
        _local("permanent", "not_implemented_error"): ("builtins.NotImplementedError",),
        _local("permanent", "file_not_found_error"): ("builtins.FileNotFoundError",),
        _local("permanent", "file_exists_error"): ("builtins.FileExistsError",),
        _local("permanent", "permission_error"): ("builtins.PermissionError",),
        _local("permanent", "is_a_directory_error"): ("builtins.IsADirectoryError",),
        _local("permanent", "not_a_directory_error"): ("builtins.NotADirectoryError",),
        _local("unknown", "local_storage"): (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    },
    _LAST: {_OS_ERROR: ("builtins.OSError",)},
}
_RANKED: Mapping[_Key, _Ranked] = {
    key: (rank, verdict)
    for rank, verdicts in _TABLES.items()
    for verdict, keys in verdicts.items()
    for key in keys
}
_ANSWERED = {
    "resonant.UnexpectedStatus",
    "httpx.HTTPStatusError",
    "requests.HTTPError",
    "aiohttp.ClientResponseError",
}
_NAME_RESOLUTION = {"socket.gaierror", "aiohttp.ClientConnectorDNSError"}
# Whatever is inside one of these happened before a byte of the request was sent.
_CONNECTING = {"httpx.ConnectError", "aiohttp.ClientConnectorError", "urllib3.ConnectTimeoutError"}

_STATUSES = range(100, 600)
_CLIENT_ERROR = 4
_CATEGORY_BY_CLASS: Mapping[int, Category] = {3: "permanent", _CLIENT_ERROR: "permanent", 5: "transient"}
_TRANSIENT_4XX = {407, 408, 421, 423, 425, 429}
# Not among them: 409, which may mean "I have it already".
_UNPROCESSED = {*range(300, 409), *range(410, 500), 501, 503, 505, 506, 508, 510, 511}
_LOCAL_STATUSES = {407, 511}
_NO_OVERRIDES: Mapping[int, Category] = MappingProxyType({})

# A chain may be a cycle, and groups may be nested without end.
_MAX_LINKS = 1000
_MAX_DEPTH = 20


class Classifier:
    """Judges failures; a user may add rules, which win over the built-in ones, the latest first."""

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
        """Register a rule, for a failure and for everything that led to it.

        Args:
            what: an exception type, with the fields of its verdict as keyword arguments, or a callable that takes a
                failure and returns a ``Verdict``, or None to leave it to others. Usable as a decorator.
            verdict: ``category`` and ``code``, and ``blame`` and ``maybe_processed`` where they are not the usual.

        Raises:
            ValueError: the verdict is none; see ``Verdict``.
        """
        if isinstance(what, type) and issubclass(what, BaseException):
            fixed = Verdict(**verdict)
            self._rules.insert(0, lambda failure: fixed if isinstance(failure, what) else None)
            return None
        self._rules.insert(0, what)
        return what

    def classify(
        self, failure: BaseException, *, now: float, overrides: Mapping[int, Category] = _NO_OVERRIDES
    ) -> Verdict:
        """Judge a failure.

        Args:
            failure: what a send raised.
            now: the time of the answer in seconds since the epoch, to which a date in ``Retry-After`` is compared.
            overrides: the endpoint's own categories by HTTP status.

        Raises:
            BaseException: the failure itself, if it is no ``Exception``: a cancellation is no failure.
        """
        if not isinstance(failure, Exception):
            raise failure
        try:
            _, verdict = _Inquiry(tuple(self._rules), now, overrides).judge(failure)
        except Exception as error:  # noqa: BLE001 - what an exception has for attributes is anybody's code
            name, reason = type(failure).__name__, type(error).__name__
            logger.warning("a %s that raises %s when it is looked at is taken for unknown", name, reason)
            return _UNKNOWN
        return verdict


class _Inquiry:
    """One call of ``classify``: what it was asked with, and how many links it may still look at."""

    def __init__(self, rules: tuple[Rule, ...], now: float, overrides: Mapping[int, Category]) -> None:
        self._rules = rules
        self._now = now
        self._overrides = overrides
        self._budget = iter(range(_MAX_LINKS))

    def judge(self, failure: BaseException, depth: int = 0) -> _Ranked:
        # zip, and not a slice: the budget is one for the whole inquiry
        links = [link for _, link in zip(self._budget, _chain(failure), strict=False)]
        for rule in self._rules:
            for link in links:
                if verdict := _ask(rule, link):
                    return _USER, verdict

        place, rank, verdict = 0, _NOTHING, _UNKNOWN
        links = [link for link in links if not _is_mask(link)]
        for i, link in enumerate(links):
            link_rank, link_verdict = self._judge_link(link, depth)
            if link_rank < rank:
                place, rank, verdict = i, link_rank, link_verdict
        if any(_CONNECTING.intersection(_names(link)) for link in links[: place + 1]):
            verdict = replace(verdict, maybe_processed=False)
        return rank, verdict

    def _judge_link(self, link: BaseException, depth: int) -> _Ranked:
        if isinstance(link, BaseExceptionGroup):
            return self._judge_group(link, depth + 1)
        ranked = self._judge_type(link)
        if isinstance(link, OSError) and isinstance(link.errno, int):
            # aiohttp.ClientOSError(ECONNRESET) says more than its class
            ranked = min(ranked, _RANKED.get(link.errno, ranked), key=_rank)
        return ranked

    def _judge_group(self, group: BaseExceptionGroup[BaseException], depth: int) -> _Ranked:
        if depth > _MAX_DEPTH:
            return _NOTHING, _UNKNOWN
        members = [self.judge(member, depth) for member in group.exceptions]
        categories = {verdict.category for _, verdict in members}
        decisive = next(c for c in ("transient", "unknown", "permanent") if c in categories)
        deciding = [member for member in members if member[1].category == decisive]
        # of several Retry-After the longest: each is a floor
        rank, verdict = max(deciding, key=lambda member: member[1].retry_after or 0.0)
        return rank, replace(verdict, maybe_processed=any(member.maybe_processed for _, member in members))

    def _judge_type(self, link: BaseException) -> _Ranked:
        for name in _names(link):
            if name in _ANSWERED and (answer := _answer(link)):
                return _PRECISE, self._judge_status(*answer)
            if name in _NAME_RESOLUTION:
                temporary = isinstance(link, OSError) and link.errno == socket.EAI_AGAIN
                return _PRECISE, _DNS_TEMPORARY if temporary else _DNS_NOT_FOUND
            if name in _RANKED:
                return _RANKED[name]
        return _NOTHING, _UNKNOWN

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
    """Walk from a failure to what it came from: the cause, else the context.

    Also a context that was suppressed: httpcore says ``raise exc from None``, and there is no other trace of the error
    that was.
    """
    seen: set[int] = set()
    link: BaseException | None = failure
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__context__ if link.__cause__ is None else link.__cause__


def _names(link: BaseException) -> list[str]:
    """Name a failure's classes by package and class, the most derived first: ``aiohttp.ClientOSError``, ..."""
    return [f"{_package(kind)}.{kind.__qualname__}" for kind in type(link).__mro__]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_mask(link: BaseException) -> bool:
    """Tell whether a link renames an error of aiohttp, which then speaks for itself.

    httpx-aiohttp makes a ``ConnectTimeout`` of every trouble with a connection, even if the request had been sent, and
    aiohttp makes an answer with status 400 of one that is no HTTP.
    """
    cause = link.__cause__
    return (
        cause is not None
        and _package(type(cause)) == "aiohttp"
        and _package(type(link)) in {"aiohttp", "httpx"}
    )


def _rank(ranked: _Ranked) -> int:
    return ranked[0]


def _ask(rule: Rule, link: BaseException) -> Verdict | None:
    """Ask a user's rule; one that does not work must not lose the event."""
    name = getattr(rule, "__qualname__", type(rule).__qualname__)
    try:
        verdict = rule(link)
    except Exception as error:  # noqa: BLE001 - a rule is anybody's code
        # no traceback: it would show the failure too, and with it perhaps a URL
        logger.warning("classifier rule %s raised %s and is passed over", name, type(error).__name__)
        return None
    if verdict is not None and not isinstance(verdict, Verdict):
        logger.warning(
            "classifier rule %s returned %s, no Verdict, and is passed over", name, type(verdict).__name__
        )
        return None
    return verdict


def _answer(failure: Any) -> tuple[int, str | None] | None:
    """Read the status and the raw ``Retry-After`` out of a failure of any library, None if it has no status."""
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
    by_type = {verdict.code for _, verdict in _RANKED.values()}
    # Codes that no table has: an unknown failure, a name that may resolve later, a worker lost while sending.
    return by_status | by_type | {_UNKNOWN.code, _DNS_TEMPORARY.code, _DNS_NOT_FOUND.code, "worker_lost"}


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_HTTP_DATES = (
    re.compile(f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),  # IMF-fixdate
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),  # RFC 850
    re.compile(f"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),  # asctime
)
_MAX_DELAY = 2.0**31  # seconds, 68 years: what RFC 9111 1.2.2 makes of a delta that is too large
_FIFTY_YEARS = timedelta(days=50 * 365.2425)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` header by the grammar of RFC 9110 10.2.3.

    Args:
        value: the header as it came: digits, or an HTTP-date in any of its three forms (RFC 9110 5.6.7).
        now: seconds since the epoch.

    Returns:
        The seconds to wait, 0 for a date that has passed, 2**31 at most; None for no header, and for one that is
        neither digits nor a date, which is logged.
    """
    if value is None:
        return None
    text = value.strip(" \t")
    if re.fullmatch("[0-9]+", text):
        return min(float(text), _MAX_DELAY)  # int() refuses more than 4300 digits, float() says infinity
    moment = _parse_http_date(text, now)
    if moment is None:
        logger.warning("passed over a Retry-After that is neither seconds nor a date: %.80r", value)
        return None
    return min(max(moment - now, 0.0), _MAX_DELAY)


def _parse_http_date(text: str, now: float) -> float | None:
    """Read an HTTP-date as seconds since the epoch; None if it is none. The name of the day is not compared."""
    for form in _HTTP_DATES:
        if match := form.fullmatch(text):
            month = _MONTHS.index(match["month"]) + 1
            hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
            try:
                date = _full_date(match["year"], month, int(match["day"]), now)
            except ValueError:  # the 31st of February
                return None
            # a sum, because a leap second is no time of day to datetime
            return date.timestamp() + hour * 3600 + minute * 60 + second
    return None


def _full_date(year: str, month: int, day: int, now: float) -> datetime:
    if len(year) > len("yy"):
        return datetime(int(year), month, day, tzinfo=UTC)
    latest = datetime.fromtimestamp(now, UTC) + _FIFTY_YEARS
    date = datetime(latest.year - (latest.year - int(year)) % 100, month, day, tzinfo=UTC)
    return date if date <= latest else date.replace(year=date.year - 100)
