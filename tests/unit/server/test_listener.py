import socket
from ipaddress import IPv4Address

import pytest

from weighbridge.server.listener import CannotListen, listen, url_of


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
        assert url_of(listener) == url
