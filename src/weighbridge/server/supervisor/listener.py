"""The listening socket and its TLS: made by the service itself, which can say in one line why it could not."""

import errno
import socket
import ssl
from ipaddress import IPv6Address, ip_address

from weighbridge.adapters.system.limits import open_files, reserve_files
from weighbridge.settings import InvalidSettings, Settings

_BACKLOG = 2048
_OTHER_DESCRIPTORS = 200  # for the admin listener's connections, above all


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


def listen_for_admin(settings: Settings) -> socket.socket | None:
    """The socket of the admin listener, None where it is off. Raises InvalidSettings.

    Without a token nobody on another machine may reach it.
    """
    host, port = settings.admin_host, settings.admin_port
    if port == "off":
        return None
    try:
        listener = listen(host, port)
    except CannotListen as exc:
        if exc.host_is_wrong:
            raise InvalidSettings(f"WEIGHBRIDGE_ADMIN_HOST: cannot listen on {host!r}: {exc}") from exc
        remedy = "choose another port, or off"
        raise InvalidSettings(f"WEIGHBRIDGE_ADMIN_PORT: cannot listen on port {port}: {exc}; {remedy}") from exc
    if settings.admin_token is None and not ip_address(listener.getsockname()[0]).is_loopback:
        listener.close()
        remedy = "set WEIGHBRIDGE_ADMIN_TOKEN, or listen on 127.0.0.1"
        raise InvalidSettings(f"WEIGHBRIDGE_ADMIN_HOST: {host!r} is not a loopback address; {remedy}")
    return listener


def most_connections(settings: Settings) -> int:
    """How many connections one process may hold: its share of the settings', below its limit on open files.

    That limit is raised as far as the system lets it.
    """
    share = max(1, settings.max_connections // max(1, settings.workers))
    descriptors = open_files(share + _OTHER_DESCRIPTORS)
    return min(share, max(descriptors // 2, descriptors - _OTHER_DESCRIPTORS))


def reserve_descriptors(settings: Settings) -> None:
    """Have the kernel's table of this process's descriptors be as large as all its connections will want it.

    To let it grow takes time in which nobody is answered, just when many connect.
    """
    reserve_files(most_connections(settings) + _OTHER_DESCRIPTORS)


class _Encrypted(Exception):
    """A key asks for a password."""


def _encrypted() -> str:
    """Called for the password of a key, which would otherwise be asked for on the terminal."""
    raise _Encrypted


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What TLS needs, where the settings switch it on. Raises InvalidSettings."""
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None:
        if key is not None or client_ca is not None:
            raise InvalidSettings(
                "WEIGHBRIDGE_TLS_CERT: not set, but other TLS settings are; name the PEM file of the certificate"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as exc:
            failed = f"cannot read PEM certificates from {client_ca!r}"
            raise InvalidSettings(f"WEIGHBRIDGE_TLS_CLIENT_CA: {failed}: {exc.strerror}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(cert, key, password=_encrypted)
    except _Encrypted as exc:
        raise InvalidSettings("WEIGHBRIDGE_TLS_KEY: the key is encrypted; give a key without a password") from exc
    except OSError as exc:
        files = f"{cert!r} and {key!r}" if key is not None else repr(cert)
        failed = f"cannot read a PEM certificate and its key from {files}"
        raise InvalidSettings(f"WEIGHBRIDGE_TLS_CERT: {failed}: {exc.strerror}") from exc
    return context


def url_of(listener: socket.socket, *, secure: bool) -> str:
    """Where a client on this machine reaches the socket."""
    scheme = "https" if secure else "http"
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        return f"{scheme}://[{'::1' if address.is_unspecified else host}]:{port}"
    return f"{scheme}://{'127.0.0.1' if address.is_unspecified else host}:{port}"
