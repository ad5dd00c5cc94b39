"""Client certificates (mutual TLS): receivers get them, and unusable ones are refused."""

import os
import ssl
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from resonant.delivery.classification import classify
from resonant.delivery.verdict import Verdict
from resonant.errors import EndpointError
from resonant.sinks.http import HttpSink
from resonant.sinks.network.client_certificate import (
    ClientCertificate,
    certificate_of,
    check_new_certificate,
    facts_of,
    problem_of_end,
)
from resonant.sinks.network.proxy import Proxy
from resonant.sinks.redaction import Redactor
from resonant.sinks.reloading import ReloadingSink
from support.http_sinks import EVENT, endpoint
from support.ports import free_port, listens
from support.programs import need
from support.proxies import tinyproxy
from support.waiting import PATIENCE_SECONDS, wait_until

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
REFUSED = Verdict("permanent", "tls_client_certificate")


def pem(issued) -> tuple[str, str]:
    chain = b"".join(each.bytes() for each in issued.cert_chain_pems).decode()
    return chain, issued.private_key_pem.bytes().decode()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def own(authority):
    return pem(authority.issue_cert("client.example", common_name="billing"))


class _Demanding(BaseHTTPRequestHandler):
    """Keeps the names of the clients. Unlike a server of asyncio, it sends the alert that says why it refuses one."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        ((_, name),) = next(
            each for each in self.connection.getpeercert()["subject"] if each[0][0] == "commonName"
        )
        self.server.clients.append(name)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


@contextmanager
def demanding_server(authority, version=ssl.TLSVersion.TLSv1_3):
    """Run a receiver that accepts only clients with a certificate of this authority; yield its URL and their names."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.maximum_version = version
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(tls)
    with _Server(("127.0.0.1", 0), _Demanding) as server:
        server.clients = []
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}/", server.clients
        finally:
            server.shutdown()
            thread.join()


async def outcome(url, certificate, **fields):
    given = certificate and ClientCertificate(*certificate)
    async with HttpSink(endpoint(url, client_certificate=given, **fields)) as sink:
        try:
            return (await sink.send(EVENT)).status_code
        except Exception as error:  # noqa: BLE001 - tests inspect the verdict
            return classify(error, now=0.0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_receiver_that_demands_a_certificate_gets_it(version, authority, ca_file, own):
    with demanding_server(authority, version) as (url, clients):
        assert await outcome(url, own, ca_file=ca_file) == 200
    assert clients == ["billing"]


@pytest.mark.program
async def test_the_certificate_goes_to_the_endpoint_and_not_to_the_proxy(authority, ca_file, own, tmp_path):
    with tinyproxy(tmp_path) as proxy, demanding_server(authority) as (url, clients):
        assert await outcome(url, own, ca_file=ca_file, proxy=Proxy(proxy.url)) == 200
        assert len(proxy.lines("CONNECT ")) >= 1
    assert clients == ["billing"]


@pytest.mark.parametrize("flaw", ["of another authority", "expired"])
async def test_a_certificate_that_the_receiver_refuses_has_its_own_code(flaw, authority, ca_file):
    issuer = authority if flaw == "expired" else trustme.CA()
    end = NOW - DAY if flaw == "expired" else NOW + DAY
    refused = pem(issuer.issue_cert("client.example", not_before=NOW - 9 * DAY, not_after=end))
    with demanding_server(authority, ssl.TLSVersion.TLSv1_2) as (url, clients):
        assert await outcome(url, refused, ca_file=ca_file) == REFUSED
    assert clients == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nothing_is_delivered_without_a_certificate(version, authority, ca_file):
    with demanding_server(authority, version) as (url, clients):
        verdict = await outcome(url, None, ca_file=ca_file)
    assert verdict.code in {"tls_client_certificate", "tls_error", "connection_reset", "disconnected"}
    assert clients == []


NGINX = """\
daemon off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        ssl_client_certificate {folder}/ca.pem;
        ssl_verify_client on;
        location / {{ return 200; }}
    }}
}}
"""


@pytest.mark.program
async def test_nginx_accepts_the_certificate_and_answers_400_without_one(authority, ca_file, own, tmp_path):
    port = free_port()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(NGINX.format(user=user, folder=tmp_path, port=port))
    with subprocess.Popen([need("nginx"), "-p", tmp_path, "-c", "nginx.conf", "-e", "error.log"]) as nginx:
        try:
            wait_until(lambda: nginx.poll() is not None or listens(port))
            url = f"https://127.0.0.1:{port}/"
            assert await outcome(url, own, ca_file=ca_file) == 200
            for certificate in (None, pem(trustme.CA().issue_cert("client.example"))):
                assert (await outcome(url, certificate, ca_file=ca_file)).code == "http_400"
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE_SECONDS)


async def test_a_renewed_certificate_is_used_while_running(authority, ca_file, own):
    renewed = pem(authority.issue_cert("client.example", common_name="billing-2"))
    with demanding_server(authority) as (url, clients):
        saved = [
            endpoint(url, ca_file=ca_file, client_certificate=ClientCertificate(*each))
            for each in (own, renewed)
        ]

        async def read():
            return saved[1]

        sink = ReloadingSink(saved[0], read)
        await sink.send(EVENT)
        await sink.look()
        await sink.send(EVENT)
        await sink.aclose()
    assert clients == ["billing", "billing-2"]


# --- unusable certificates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instead", [" ", ""])
def test_line_breaks_may_be_missing(own, instead):
    chain, key = (each.replace("\n", instead) for each in own)
    assert facts_of(chain).subject.startswith("CN=billing")
    ClientCertificate(chain, key)


def test_another_key_is_refused(own, authority):
    other = pem(authority.issue_cert("other.example"))[1]
    with pytest.raises(
        EndpointError, match=r"^endpoint 'a': its client certificate does not belong to its key$"
    ):
        certificate_of("a", own[0], other)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_certificate_needs_a_key_and_a_key_a_certificate(own, missing):
    given = [each if place != missing else "" for place, each in enumerate(own)]
    with pytest.raises(EndpointError, match="needs both a certificate and its key"):
        certificate_of("a", *given)
    assert certificate_of("a", "", "") is None


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_a_key_with_a_passphrase_is_refused_with_the_remedy(own, form):
    key = load_pem_private_key(own[1].encode(), None)
    encrypted = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"xyzzy")).decode()
    with pytest.raises(
        EndpointError, match="has a key with a passphrase: `openssl pkey -in KEY -out NEW` removes it"
    ):
        certificate_of("a", own[0], encrypted)


@pytest.mark.parametrize("place", [0, 1])
def test_text_that_is_not_pem_is_refused(own, place):
    given = [each if number != place else "s3cret text" for number, each in enumerate(own)]
    with pytest.raises(EndpointError, match=r"or its key cannot be used \(not PEM\)") as caught:
        certificate_of("a", *given)
    assert "s3cret" not in str(caught.value)


def test_a_certificate_needs_tls(own):
    with pytest.raises(EndpointError, match="its URL does not begin with https://"):
        endpoint("http://hooks.example.com/", client_certificate=ClientCertificate(*own))


@pytest.mark.parametrize(("begins", "ends", "refused"), [(-9, -1, True), (1, 9, True), (-1, 9, False)])
def test_a_new_certificate_must_be_valid_now(begins, ends, refused, authority):
    chain, _ = pem(
        authority.issue_cert(
            "c.example", common_name="c", not_before=NOW + begins * DAY, not_after=NOW + ends * DAY
        )
    )
    if not refused:
        check_new_certificate("a", chain, NOW)
        return
    with pytest.raises(
        EndpointError, match=r"its client certificate \(CN=c,.*\) is not valid now, but from .* UTC: renew it"
    ):
        check_new_certificate("a", chain, NOW)


@pytest.mark.parametrize(("days", "words"), [(-1, "expired on"), (13, "expires on"), (15, None)])
def test_a_certificate_that_expires_soon_causes_a_warning(days, words, authority):
    chain, _ = pem(authority.issue_cert("c.example", not_before=NOW - 9 * DAY, not_after=NOW + days * DAY))
    problem = problem_of_end(chain, NOW)
    assert (words in problem) if words else problem is None
    assert problem_of_end("", NOW) is None


# --- secrecy ----------------------------------------------------------------------------------------------------------


def test_the_key_is_secret_in_every_line(own):
    certificate = ClientCertificate(*own)
    redactor = Redactor.of(endpoint("https://hooks.example.com/", client_certificate=certificate))
    assert "PRIVATE" not in repr(certificate)
    for line in own[1].splitlines()[1:-1]:
        assert redactor.line(f"bad line {line}.") == "bad line ***."


def test_no_file_of_the_key_remains(own, monkeypatch):
    with TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        ClientCertificate(*own)
        assert list(Path(folder).iterdir()) == []
        opened = psutil.Process().num_fds()
        ClientCertificate(*own)
        assert psutil.Process().num_fds() == opened
