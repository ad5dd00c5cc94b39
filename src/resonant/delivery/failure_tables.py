"""The verdict of the classifier for each exception class and errno.

Classes are given by name, so that no HTTP library needs to be imported.
"""

import errno
from collections.abc import Mapping

from resonant.delivery.verdict import Verdict
from resonant.events import Category

_Key = str | int  # "package.Class" or an errno
Ranked = tuple[int, Verdict]

# How specific a link of the chain is. The most specific link decides; among equals, the outermost.
USER, PRECISE, WRAPPER, OWN, LAST, NOTHING = range(6)

# Not sent, because its `expirytime` has passed.
EVENT_EXPIRED = Verdict("permanent", "event_expired")
UNKNOWN = Verdict("unknown", "unknown", maybe_processed=True)
DNS_TEMPORARY = Verdict("transient", "dns_temporary")
DNS_NOT_FOUND = Verdict("unknown", "dns_not_found")
_BAD_RESPONSE = Verdict("transient", "bad_response", maybe_processed=True)
_BAD_ENCODING = Verdict("unknown", "bad_response", maybe_processed=True)  # most likely deterministic
_TLS_ERROR = Verdict("unknown", "tls_error", maybe_processed=True)
_OS_ERROR = Verdict("transient", "os_error")


def _sent(code: str) -> Verdict:
    """Return the verdict for a failure after which the request may have been processed."""
    return Verdict("transient", code, maybe_processed=True)


def _local(category: Category, code: str) -> Verdict:
    return Verdict(category, code, blame="local")


# Errors, keyed by rank and verdict. An error is a class (its top-level package and name) or an errno.
TABLES: Mapping[int, Mapping[Verdict, tuple[_Key, ...]]] = {
    PRECISE: {
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
        _local("transient", "oauth_token"): ("resonant.TokenUnavailable",),
        _sent("run_unfinished"): ("resonant.RunUnfinished",),
        # Its flow decides with its own retries how often to repeat it: here, it gets few new runs.
        Verdict("unknown", "run_failed", maybe_processed=True): ("resonant.RunFailed",),
        _sent("run_crashed"): ("resonant.RunCrashed",),
        # A new run would act against an operator, or would be a second one.
        Verdict("permanent", "run_cancelled", maybe_processed=True): ("resonant.RunCancelled",),
        Verdict("permanent", "run_overdue", maybe_processed=True): ("resonant.RunOverdue",),
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
        Verdict("permanent", "run_refused"): ("resonant.RunRefused",),
        Verdict("permanent", "event_refused"): ("resonant.EventRefused",),
        Verdict("permanent", "deployment_missing"): ("resonant.DeploymentMissing",),
        _local("permanent", "prefect_denied"): ("resonant.PrefectDenied",),
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
    WRAPPER: {
        Verdict("transient", "connect_error"): (
            "httpx.ConnectError",
            "aiohttp.ClientConnectorError",
            "urllib3.NewConnectionError",
        ),
        DNS_NOT_FOUND: ("urllib3.NameResolutionError",),
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
    OWN: {
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
    LAST: {_OS_ERROR: ("builtins.OSError",)},
}
RANKED: Mapping[_Key, Ranked] = {
    key: (rank, verdict)
    for rank, verdicts in TABLES.items()
    for verdict, keys in verdicts.items()
    for key in keys
}
# The alerts of TLS with which a receiver refuses a client certificate, as OpenSSL names them.
CLIENT_CERTIFICATE_REFUSED = Verdict("permanent", "tls_client_certificate")
CLIENT_CERTIFICATE_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "TLSV1_ALERT_UNKNOWN_CA",
    "TLSV1_ALERT_ACCESS_DENIED",
}
ANSWERED = {
    "resonant.UnexpectedStatus",
    "httpx.HTTPStatusError",
    "requests.HTTPError",
    "aiohttp.ClientResponseError",
}
NAME_RESOLUTION = {"socket.gaierror", "aiohttp.ClientConnectorDNSError"}
# An error wrapped in one of these happened before a byte of the request was sent.
CONNECTING = {"httpx.ConnectError", "aiohttp.ClientConnectorError", "urllib3.ConnectTimeoutError"}
