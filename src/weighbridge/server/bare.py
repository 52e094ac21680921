"""A connection before a transport is made of it, which costs more than to answer a request."""

import asyncio
import contextlib
import socket

from typing_extensions import override

_FIRST_BYTES = 64 * 1024
_AT_ONCE = int(socket.MSG_DONTWAIT)  # an int is combined and passed in a fraction of the time of an enum's member
_LOOK = _AT_ONCE | int(socket.MSG_PEEK)
_LAST = _AT_ONCE | int(socket.MSG_MORE)


class Bare(asyncio.Transport):
    """A connection as its protocol's transport for one reply, its last; `received` is what has come, left unread.

    What the kernel does not take of the reply is `unsent`: then the connection stays open, and needs a real transport.
    Raises OSError for a descriptor that is gone.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        # What kind it is matters to nothing that is done with it; to have it found out would take two calls more.
        self._socket = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        self.unsent = b""
        try:
            self.received = self._socket.recv(_FIRST_BYTES, _LOOK)
        except OSError:  # nothing has come, or the client is gone, as whoever goes on with it finds out
            self.received = b""

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send as much of it as the kernel takes; the last of it leaves with the end of the connection."""
        try:
            self._socket.recv(len(self.received), _AT_ONCE)  # to close with it unread would reset the connection
            self.unsent = bytes(data[self._socket.send(data, _LAST) :])
        except BlockingIOError:
            self.unsent = bytes(data)
        except OSError:  # the client is gone
            return

    @override
    def close(self) -> None:
        """End the connection, unless there is something left to send."""
        if self.unsent:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)  # closing would wait for the supervisor to close its descriptor, too
        self.abort()

    @override
    def abort(self) -> None:
        """Close the descriptor."""
        self._socket.close()

    def detach(self) -> None:
        """Leave the descriptor open, for a real transport."""
        self._socket.detach()
