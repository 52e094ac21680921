"""What a supervisor and a worker tell each other: messages, each with at most one file descriptor."""

import socket
from enum import Enum
from typing import Self

_LONGEST_MESSAGE = 64 * 1024


class Word(Enum):
    """What a message says; some carry a text after it."""

    # From the supervisor
    START = b"start"  # with the settings, and the descriptor of the scoreboard
    CONNECTION = b"connection"  # with its descriptor; from a worker that retires, too
    DRAIN = b"drain"  # serve on, but ask every client to leave
    CLOSE = b"close"  # finish what is in hand, and end
    RETIRE = b"retire"  # the same, but hand back the connections that are at rest
    # From the worker
    READY = b"ready"


Message = tuple[Word, str, int | None]
"""A word, the text after it, and a descriptor that is the receiver's to close."""


class Channel:
    """One end of a pair of Unix sockets that keep messages apart. Neither sending nor receiving ever waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """The descriptor, as event loops and `pass_fds` want it."""
        return self._socket.fileno()

    def send(self, word: Word, text: str = "", *, descriptor: int | None = None) -> bool:
        """Send a message; False when the other end is gone, or has too many unread.

        The descriptor stays the caller's, who may close it: the message has a copy.
        """
        message = b"%b %b" % (word.value, text.encode())
        try:
            socket.send_fds(self._socket, [message], [] if descriptor is None else [descriptor])
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; None once the other end is gone.

        Raises BlockingIOError when there is none yet.
        """
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, _LONGEST_MESSAGE, 1)
        except ConnectionResetError:  # it went with messages unread
            return None
        if not message:
            return None
        word, _, text = message.partition(b" ")
        return Word(word), text.decode(), descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
