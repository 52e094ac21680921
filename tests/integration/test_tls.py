"""TLS: the same answers, on both roads."""

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx2
import pytest

from tests.contract import ONE_OF_EACH, Case
from tests.integration.service import Service, serving
from tests.integration.wire import JSON, Wire, cut, get, head, post
from tests.malformed import TO_COMPILED, check_end
from tests.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("measured")

PREDICTION = b'{"prediction":-1.6875,"status":"success"}'
LARGEST_BODY = 16 * 1024 * 1024
SCRIPT = b"/docs/assets/swagger-ui-bundle.js"
CLOSE = b"Connection: close"


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


@pytest.fixture(scope="module")
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


@dataclass(frozen=True)
class Secure:
    """A service that speaks TLS, and what its clients need."""

    service: Service
    tls: ssl.SSLContext

    @contextmanager
    def connect(self) -> Iterator[Wire]:
        """A connection to it."""
        with (
            self.service.connect() as plain,
            self.tls.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            yield Wire(connection)

    def exchange(self, *pieces: bytes) -> bytes:
        """All that comes back until the service closes the connection."""
        with self.connect() as connection:
            connection.send(*pieces)
            return connection.rest()


@pytest.fixture(scope="module")
def lane(certificates: Certificates) -> Iterator[Secure]:
    """The fast lane, for everybody."""
    with serving(measured=False, TLS_CERT=certificates.certificate, TLS_KEY=certificates.key) as started:
        yield Secure(started, certificates.client(with_certificate=False))


@pytest.fixture(scope="module")
def road(certificates: Certificates) -> Iterator[Secure]:
    """The ordinary road, for clients of one authority and nobody else."""
    own = certificates
    with serving(
        WORKERS="0", FAST_LANE="false", TLS_CERT=own.certificate, TLS_KEY=own.key, TLS_CLIENT_CA=own.authority
    ) as started:
        yield Secure(started, own.client(with_certificate=True))


@pytest.fixture(scope="module", params=["lane", "road"])
def secure(request: pytest.FixtureRequest) -> Secure:
    """The one or the other."""
    service: Secure = request.getfixturevalue(request.param)
    return service


@pytest.fixture(scope="module")
def client(secure: Secure) -> Iterator[httpx2.Client]:
    """An HTTP client of the service."""
    with httpx2.Client(
        base_url=secure.service.url.replace("127.0.0.1", "localhost"), timeout=DEADLINE, verify=secure.tls
    ) as client:
        yield client


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_the_contract_holds_over_tls(client: httpx2.Client, case: Case) -> None:
    case.check(client)


@pytest.mark.parametrize("target", [b"/predict", b"/predict?x=1"], ids=["compiled", "other"])
def test_a_request_over_tls_is_answered_wherever_it_is_cut(secure: Secure, target: bytes) -> None:
    request = post(target)
    with secure.connect() as connection:
        for at in range(1, len(request), 5):
            connection.send(*cut(request, [at]))

            assert connection.reply().body == PREDICTION


def test_requests_sent_ahead_over_tls_are_answered_in_order(secure: Secure) -> None:
    with secure.connect() as connection:
        connection.send((post(b"/predict") + get(b"/nothing") + get(SCRIPT) + post(b"/predict?x=1")) * 5)

        assert [connection.reply().status for _ in range(20)] == [200, 404, 200, 200] * 5


def test_malformed_requests_over_tls_are_refused(secure: Secure) -> None:
    for case in TO_COMPILED.values():
        with secure.connect() as connection:
            connection.send(post(b"/predict") + case[0])

            assert connection.reply().body == PREDICTION
            check_end(connection, case)


@pytest.mark.parametrize("lines", [(CLOSE,), (b"Expect: 100-continue", CLOSE)], ids=["plain", "invited"])
def test_a_connection_over_tls_ends_when_its_request_says_so(secure: Secure, lines: tuple[bytes, ...]) -> None:
    assert secure.exchange(post(b"/predict", *lines)).endswith(PREDICTION)


def test_a_client_that_is_still_sending_over_tls_can_read_that_its_body_is_too_large(secure: Secure) -> None:
    with secure.connect() as client:
        client.send(head(b"POST", b"/predict", JSON, b"Content-Length: %d" % (2 * LARGEST_BODY)))
        for _ in range(16):
            client.send(b" " * (LARGEST_BODY // 32))

        assert client.reply().status == 413
        assert client.rest() == b""


def test_a_client_without_a_certificate_is_not_let_in(road: Secure, certificates: Certificates) -> None:
    received = b""
    stranger = Secure(road.service, certificates.client(with_certificate=False))
    with suppress(ssl.SSLError, ConnectionError):
        received = stranger.exchange(post(b"/predict", CLOSE))

    assert received == b""


def test_a_client_without_tls_gets_nothing(secure: Secure) -> None:
    known = post(b"/predict", CLOSE)
    secure.exchange(known)

    assert b"HTTP/" not in secure.service.exchange(known)
