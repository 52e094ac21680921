import socket
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.starving import open_files
from weighbridge.server.supervisor.listener import (
    CannotListen,
    listen,
    listen_for_admin,
    most_connections,
    reserve_descriptors,
    tls_context,
    url_of,
)
from weighbridge.settings import InvalidSettings, Settings


class Listener(socket.socket):
    """A socket that is bound to nothing, and says that it is bound to an address."""

    def __init__(self, *address: str | int) -> None:
        super().__init__()
        self._address = address

    def getsockname(self) -> tuple[str | int, ...]:
        return self._address


def test_port_0_picks_a_free_port() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client:
        assert client.getpeername() == listener.getsockname()


def test_a_port_is_free_again_as_soon_as_its_listener_is_closed() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        server.close()  # this side closes first, so that its address stays in TIME_WAIT
        client.close()

    with listen("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


def test_a_port_in_use_is_the_ports_fault() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(CannotListen, match=r"^Address already in use$") as caught:
        listen("127.0.0.1", taken.getsockname()[1])

    assert not caught.value.host_is_wrong


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),  # a network for documentation: no machine has its addresses
        ("::1%nowhere", "Name or service not known"),
        ("a..b", "not a host name"),
        ("a" * 300, "not a host name"),
    ],
)
def test_an_address_of_no_interface_here_is_the_hosts_fault(host: str, reason: str) -> None:
    with pytest.raises(CannotListen) as caught:
        listen(host, 0)

    assert str(caught.value) == reason
    assert caught.value.host_is_wrong


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (("192.0.2.1", 80), "http://192.0.2.1:80"),
        ((str(IPv4Address(0)), 8000), "http://127.0.0.1:8000"),
        (("::1", 8000, 0, 0), "http://[::1]:8000"),
        (("::", 8000, 0, 0), "http://[::1]:8000"),
        (("fd00::1", 8000, 0, 0), "http://[fd00::1]:8000"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(address: tuple[str | int, ...], url: str) -> None:
    with Listener(*address) as listener:
        assert url_of(listener, secure=False) == url


def test_the_url_says_when_the_socket_speaks_tls() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener, secure=True) == f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_the_admin_listener_is_on_this_machine_by_itself() -> None:
    listener = listen_for_admin(Settings(admin_port=0))

    assert listener is not None
    with listener, socket.create_connection(listener.getsockname()) as client:
        assert client.getpeername()[0] == "127.0.0.1"


def test_the_admin_listener_can_be_switched_off() -> None:
    assert listen_for_admin(Settings(admin_port="off")) is None


def test_with_a_token_the_admin_listener_may_be_reached_from_other_machines() -> None:
    listener = listen_for_admin(Settings(admin_host="::", admin_port=0, admin_token=SecretStr("sixteen-characters")))

    assert listener is not None
    with listener:
        assert listener.getsockname()[0] == "::"


@pytest.mark.parametrize("host", ["::", str(IPv4Address(0))])
def test_without_a_token_the_admin_listener_may_not_be_reached_from_other_machines(host: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        listen_for_admin(Settings(admin_host=host, admin_port=0))

    assert str(refused.value) == (
        f"WEIGHBRIDGE_ADMIN_HOST: {host!r} is not a loopback address; "
        "set WEIGHBRIDGE_ADMIN_TOKEN, or listen on 127.0.0.1"
    )


def test_an_admin_address_of_no_interface_here_is_named() -> None:
    with pytest.raises(InvalidSettings) as refused:
        listen_for_admin(Settings(admin_host="a..b"))

    assert str(refused.value) == ("WEIGHBRIDGE_ADMIN_HOST: cannot listen on 'a..b': not a host name")


def test_an_admin_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings) as refused:
            listen_for_admin(Settings(admin_port=port))

    assert str(refused.value) == (
        f"WEIGHBRIDGE_ADMIN_PORT: cannot listen on port {port}: Address already in use; choose another port, or off"
    )


def test_without_settings_there_is_no_tls() -> None:
    assert tls_context(Settings()) is None


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"tls_key": "key.pem"},
            "WEIGHBRIDGE_TLS_CERT: not set, but other TLS settings are; name the PEM file of the certificate",
        ),
        (
            {"tls_cert": "no.pem", "tls_client_ca": "ca.pem"},
            "WEIGHBRIDGE_TLS_CLIENT_CA: cannot read PEM certificates from 'ca.pem': No such file or directory",
        ),
        ({"tls_cert": "no.pem"}, "cannot read a PEM certificate and its key from 'no.pem': No such file or directory"),
        ({"tls_cert": "no.pem", "tls_key": "key.pem"}, "from 'no.pem' and 'key.pem': No such file or directory"),
    ],
)
def test_tls_files_that_cannot_be_used_are_named(settings: dict[str, str], line: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        tls_context(Settings.load(**settings))

    assert str(refused.value).endswith(line)


def test_a_key_that_is_encrypted_is_refused_as_such(tmp_path: Path) -> None:
    encrypted = ("-newkey", "rsa:2048", "-passout", "pass:secret", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-subj", "/CN=x", *encrypted], cwd=tmp_path, check=True, capture_output=True
    )
    files = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}

    with pytest.raises(InvalidSettings, match="WEIGHBRIDGE_TLS_KEY: the key is encrypted"):
        tls_context(Settings.load(**files))


def table_of_descriptors() -> int:
    """How many descriptors this process may have before the kernel has to make room for more."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("FDSize:")]
    return int(line.split()[1])


def test_there_is_room_for_all_connections_before_the_first_one_comes() -> None:
    settings = Settings(max_connections=3 * table_of_descriptors())
    descriptors = open_files()

    reserve_descriptors(settings)

    assert table_of_descriptors() > most_connections(settings)
    assert open_files() == descriptors
