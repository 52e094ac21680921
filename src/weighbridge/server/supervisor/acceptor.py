"""Accepting connections, and the end of it: none that was accepted is reset."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from operator import methodcaller

from weighbridge.adapters.system.sockets import keep_out
from weighbridge.server.channel import MOST_DESCRIPTORS

_PAUSE_SECONDS = 0.1
_HANDSHAKE_SECONDS = 0.2

_accept = methodcaller("_accept")  # what `accept` makes an object of: a descriptor, and the address of the client


class Acceptor:
    """Accepts connections from a listening socket while it is running, and gives them to `give`, some at a time.

    They are given as descriptors: an object for each would cost more than to accept it.

    An `inherited` socket belongs to whoever started the service: it is left as it is, with what has queued in it.
    """

    def __init__(self, listener: socket.socket, give: Callable[[list[int]], None], *, inherited: bool = False) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._give = give
        self._inherited = inherited
        self._running = False

    def start(self) -> None:
        """Accept from now on, in the loop that runs; nothing once it has finished."""
        if not self._running and self._listener.fileno() >= 0:
            self._running = True
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more until it is started again: whoever connects waits in the queue."""
        if self._running:
            self._running = False
            asyncio.get_running_loop().remove_reader(self._listener.fileno())

    async def finish(self) -> None:
        """Give away what has queued, and close: from then on the port refuses connections.

        A connection that the kernel completes after the last accept would be reset by the close. So first a filter
        keeps new ones out, and those whose handshake is under way get the time to complete it. Elsewhere than on Linux
        there is no such filter, and a window of some microseconds.
        """
        if not self._inherited:
            keep_out(self._listener)
            await asyncio.sleep(_HANDSHAKE_SECONDS)
            self.start()
            while self._running and self._accept():
                pass
        self.stop()
        self._listener.close()

    def _accept(self) -> bool:
        """Give away what has queued, up to one message; whether there was any.

        Not all until there is no more: clients that are answered at once may come again as fast as they are accepted,
        and the loop would never come to anything else.
        """
        connections = list(islice(self._queued(), MOST_DESCRIPTORS))
        if connections:
            self._give(connections)
        return bool(connections)

    def _queued(self) -> Iterator[int]:
        while True:
            try:
                yield _accept(self._listener)[0]
            except BlockingIOError:
                return
            except ConnectionError:  # it was gone before it was accepted
                continue
            except OSError:  # no descriptors or no memory are left: others have to end first
                self.stop()
                asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.start)
                return
