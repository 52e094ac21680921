"""The listening socket, which the service binds itself so that it can say in one line why it could not."""

import errno
import socket
from ipaddress import IPv6Address, ip_address

_BACKLOG = 2048


class CannotListen(Exception):
    """The address cannot be listened on; `host_is_wrong` tells whether the host or the port is to blame."""

    def __init__(self, reason: str, *, host_is_wrong: bool) -> None:
        super().__init__(reason)
        self.host_is_wrong = host_is_wrong


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the first address of `host`; port 0 picks a free one. Raises CannotListen."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a host name"
        raise CannotListen(str(reason), host_is_wrong=True) from exc
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        host_is_wrong = exc.errno == errno.EADDRNOTAVAIL
        raise CannotListen(exc.strerror or str(exc), host_is_wrong=host_is_wrong) from exc
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        return f"http://[{'::1' if address.is_unspecified else host}]:{port}"
    return f"http://{'127.0.0.1' if address.is_unspecified else host}:{port}"
