"""nginx with the documented configuration, ``deployments/nginx.conf``, in front of a server of a test."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trustme

from support import patient
from support.failures import show_on_failure
from support.pages import PROJECT
from support.ports import free_port, listens
from support.programs import need
from support.waiting import wait_until

CONFIGURATION = PROJECT / "deployments" / "nginx.conf"
_ENDS_WITHIN_SECONDS = 60.0
# What a distribution's nginx.conf has around the files of conf.d, with all of its files in the test's folder.
_AROUND = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    log_format requests '$status $upstream_status $request';
    access_log {folder}/access.log requests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/resonant.conf;
}}
"""


@dataclass
class Nginx:
    """A running nginx.

    Attributes:
        port: its port on the loopback interface, for TLS.
        tls: trusts its certificate, which is for 127.0.0.1.
        log: a line per request: the status of its answer, that of the server's answer or a dash, and its first line.
    """

    port: int
    tls: ssl.SSLContext
    log: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """Return a client for it."""
        return patient.Client(base_url=self.url, verify=self.tls)


@contextmanager
def nginx(folder: Path, server_port: int) -> Iterator[Nginx]:
    """Run nginx during the block, in front of a server on this port; the server may start later, end and start again.

    Args:
        folder: for its files.
        server_port: the port of ``resonant serve``.
    """
    program = need("nginx")
    port = free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "resonant.conf").write_text(_configuration(folder, port, server_port))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_AROUND.format(user=user, folder=folder))
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    show_on_failure("nginx", folder / "error.log")
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, (folder / "error.log").read_text()
            yield Nginx(port, tls, folder / "access.log")
        finally:
            process.terminate()
            process.wait(_ENDS_WITHIN_SECONDS)


def _configuration(folder: Path, port: int, server_port: int) -> str:
    """Return the documented configuration with the test's ports and certificate."""
    text = CONFIGURATION.read_text()
    for documented, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8080": f"127.0.0.1:{server_port}",
        "/etc/ssl/events.example.com.pem": f"{folder}/cert.pem",
        "/etc/ssl/events.example.com.key": f"{folder}/key.pem",
    }.items():
        assert text.count(documented) == 1, documented
        text = text.replace(documented, here)
    return text
