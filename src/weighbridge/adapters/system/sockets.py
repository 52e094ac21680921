"""What sockets can do on Linux, and less of it elsewhere."""

import ctypes
import socket
import struct
from contextlib import suppress

# Ints are combined and passed in a fraction of the time of an enum's members. 0 is a flag that a system does not have.
AT_ONCE = int(getattr(socket, "MSG_DONTWAIT", 0))
"""Not to wait, whatever the socket is set to."""
MORE = int(getattr(socket, "MSG_MORE", 0))
"""That more is about to follow, so that both leave in one segment."""
CLOSE_ON_EXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
"""To receive descriptors that no other program inherits."""

_SO_ATTACH_FILTER = 26  # of Linux' asm-generic/socket.h
# Classic BPF, as (code, jump if true, jump if false, operand): a TCP segment that has SYN set is dropped.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF),  # pass it
)


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages apart, and pass descriptors; only where processes can be started. Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def keep_out(listener: socket.socket) -> None:
    """Have no new connection reach a listening socket, by a filter; elsewhere than on Linux nothing happens."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        )
