"""Pairs of services that differ in nothing but the road: all that they are sent must be answered alike."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.integration.service import Service, serving
from tests.integration.wire import Wire

MADE_ID = re.compile(rb"\b[0-9a-f]{12}-[0-9a-f]+\b")
DATE = re.compile(rb"\r\ndate: [^\r]+")
LENGTH_OF_A_PROBLEM = re.compile(rb"\r\ncontent-length: \d+(?=\r\ncontent-type: application/problem\+json\r\n)")
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Pair:
    """The fast lane and the ordinary road."""

    lane: Service
    road: Service
    tls: ssl.SSLContext | None = None

    def check(self, *pieces: bytes, last: bytes = LAST) -> bytes:
        """Send the pieces to both and assert that the same comes back, which is returned.

        The last request ends the connection, unless the pieces do. Left out are the date, ids that the service made and
        the lengths of the bodies that hold them.
        """
        lane, road = (self._exchange(service, *pieces, last) for service in (self.lane, self.road))
        assert lane == road
        return lane

    @contextmanager
    def connect(self, service: Service) -> Iterator[Wire]:
        """A connection to one of the two."""
        with service.connect() as plain, wrapped(plain, self.tls) as connection:
            yield Wire(connection)

    def _exchange(self, service: Service, *pieces: bytes) -> bytes:
        with self.connect(service) as client:
            client.send(*pieces)
            written = client.rest()
        return DATE.sub(b"", LENGTH_OF_A_PROBLEM.sub(b"", MADE_ID.sub(b"(made)", written)))


def wrapped(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """The connection, by TLS or as it is."""
    return connection if tls is None else tls.wrap_socket(connection, server_hostname="localhost")


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two services as they ship, but that they do not wait as long."""
    with (
        serving(FAST_LANE="true", HEADER_TIMEOUT="2", BODY_TIMEOUT="2") as lane,
        serving(FAST_LANE="false", HEADER_TIMEOUT="2", BODY_TIMEOUT="2") as road,
    ):
        yield Pair(lane, road)


@dataclass(frozen=True)
class Certificates:
    """An authority, and the certificate and key that it has signed, as files."""

    authority: str
    certificate: str
    key: str

    def client(self, *, with_certificate: bool) -> ssl.SSLContext:
        """What a client needs that trusts the authority."""
        context = ssl.create_default_context(cafile=self.authority)
        if with_certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for localhost, both for servers and for clients."""
    here = tmp_path_factory.mktemp("certificates")
    authority = ("-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    extensions = ("-addext", "subjectAltName=DNS:localhost", "-CA", "ca.pem", "-CAkey", "ca.key")
    signed = ("-x509", "-subj", "/CN=localhost", "-keyout", "own.key", "-out", "own.pem", *extensions)
    for request in (authority, signed):
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subprocess.run(["openssl", "req", *new_key, *request], cwd=here, check=True, capture_output=True)
    return Certificates(*(str(here / name) for name in ("ca.pem", "own.pem", "own.key")))


@pytest.fixture(scope="session")
def tls_pair(certificates: Certificates) -> Iterator[Pair]:
    """Two services that speak TLS."""
    own = certificates
    with (
        serving(FAST_LANE="true", TLS_CERT=own.certificate, TLS_KEY=own.key) as lane,
        serving(FAST_LANE="false", TLS_CERT=own.certificate, TLS_KEY=own.key) as road,
    ):
        yield Pair(lane, road, own.client(with_certificate=False))


@pytest.fixture(scope="session")
def mutual_pair(certificates: Certificates) -> Iterator[Pair]:
    """Two services that speak TLS with the clients of one authority, and with no others."""
    own = certificates
    ca = own.authority
    with (
        serving(FAST_LANE="true", TLS_CERT=own.certificate, TLS_KEY=own.key, TLS_CLIENT_CA=ca) as lane,
        serving(FAST_LANE="false", TLS_CERT=own.certificate, TLS_KEY=own.key, TLS_CLIENT_CA=ca) as road,
    ):
        yield Pair(lane, road, own.client(with_certificate=True))
