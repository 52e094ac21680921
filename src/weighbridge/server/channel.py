"""What a supervisor and a worker tell each other: messages, which may bring file descriptors along."""

import os
import socket
from array import array
from collections.abc import Sequence
from enum import Enum
from typing import Self

from weighbridge.adapters.system.sockets import CLOSE_ON_EXEC, message_pair

_LONGEST_MESSAGE = 64 * 1024


class Word(Enum):
    """What a message says; some carry a text after it."""

    # From the supervisor to a worker
    START = b"start"  # with the settings, and the descriptors of the scoreboard and the catalogue
    # with a number that no other has, perhaps KEPT, and descriptors; without a number where a worker hands them back
    CONNECTIONS = b"connections"
    DRAIN = b"drain"  # serve on, but ask every client to leave
    CLOSE = b"close"  # finish what is in hand, and end
    RETIRE = b"retire"  # the same, but hand back the connections that are at rest
    SHARE = b"share"  # with a number: hand back so many connections as they come to rest, and serve on
    PREPARE = b"prepare"  # with a number, a model, and the descriptor of where it is called: be ready to serve it
    COMMIT = b"commit"  # with a number: serve what was prepared
    ABORT = b"abort"  # forget what was prepared
    CATALOGUE = b"catalogue"  # with the descriptor of a catalogue, whose catalogue counts
    RUNNER = b"runner"  # with the numbers of an opening, an instance and a slot; descriptors of its end, and a board
    OUT = b"out"  # with the number of an opening, and why it is out of service
    # From a worker
    READY = b"ready"  # from a nursery, too
    DONE = b"done"  # with the number of what it was asked for
    FAILED = b"failed"  # the same, and the reason; number 0 is its start. From a runner with the kind of the reason
    BROKEN = b"broken"  # with the numbers of an opening and an instance, and why that runner must go
    # To a nursery, and from it
    FORK = b"fork"  # with a number, and the descriptors that a runner starts with
    FORKED = b"forked"  # with that number, the runner's pid, and a descriptor of the process
    ENDED = b"ended"  # with that number, and how the runner has ended
    # To a runner, and from it; RETIRE as well
    PEER = b"peer"  # with the descriptor of a worker's end
    OPENED = b"opened"  # with a report


Message = tuple[Word, str, list[int]]
"""A word, the text after it, and descriptors that are the receiver's to close."""

KEPT = "kept"
"""Said of connections that have had a request: they may rest for longer than those that never had one."""

MOST_DESCRIPTORS = 64
"""What one message may bring along; Linux' own limit is 253."""

_SPACE = socket.CMSG_SPACE(MOST_DESCRIPTORS * array("i").itemsize)
_LOOK = socket.MSG_PEEK | CLOSE_ON_EXEC


class NoRoom(Exception):
    """A process may not have as many descriptors more as there are connections in a message."""


class Channel:
    """One end of a pair of Unix sockets that keep messages apart. Neither sending nor receiving ever waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two ends."""
        one, other = message_pair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """The descriptor, as event loops and `pass_fds` want it."""
        return self._socket.fileno()

    def send(self, word: Word, text: str = "", descriptors: Sequence[int] = ()) -> bool:
        """Send a message; False when the other end is gone, or has too many unread.

        The descriptors stay the caller's, who may close them: the message has copies.
        """
        try:
            socket.send_fds(self._socket, [b"%b %b" % (word.value, text.encode())], descriptors)
        except OSError:
            return False
        return True

    def receive(self) -> Message:
        """The next message. Raises BlockingIOError when there is none yet, EOFError once the other end is gone.

        Raises ValueError for what is no message; it is gone then, with all that it brought.

        Raises NoRoom when it brings connections that find none: it stays where it is, for whoever shares this end, or
        for later. Any other message comes without the descriptors that find no room.
        """
        message, descriptors, whole = self._look()
        if not message:
            raise EOFError
        if not whole and message.startswith(Word.CONNECTIONS.value):
            _close(descriptors)
            raise NoRoom
        try:
            taken = self._socket.recv(_LONGEST_MESSAGE)
        except BlockingIOError:
            _close(descriptors)
            raise
        if taken != message:
            _close(descriptors)
            descriptors = []
        word, _, text = taken.partition(b" ")
        try:
            return Word(word), text.decode(), descriptors
        except ValueError:
            _close(descriptors)
            raise

    def _look(self) -> tuple[bytes, list[int], bool]:
        """The next message, left where it is; what descriptors it brings, as far as there is room; whether that is all.

        To receive them for good would close those that find no room.
        """
        try:
            message, ancillary, flags, _ = self._socket.recvmsg(_LONGEST_MESSAGE, _SPACE, _LOOK)
        except ConnectionResetError:  # the other end went with messages unread
            return b"", [], True
        descriptors = array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        return message, list(descriptors), not flags & socket.MSG_CTRUNC

    @property
    def next_word(self) -> Word:
        """What the next message says. Raises BlockingIOError when there is none yet."""
        return Word(self._socket.recv(_LONGEST_MESSAGE, socket.MSG_PEEK).partition(b" ")[0])

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
