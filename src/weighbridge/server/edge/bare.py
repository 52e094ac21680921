"""Connections that end with their first request: answered without a transport, which costs more than to answer it."""

import socket
from time import perf_counter

from weighbridge.adapters.system.sockets import AT_ONCE, MORE
from weighbridge.server.edge.lane import END_OF_HEAD, Lane
from weighbridge.server.edge.replies import CLOSE, Due, Replies

_FIRST_BYTES = 64 * 1024
# Looked at and not taken: uvloop reads before it hands a transport over, so later bytes would come first.
_LOOK = AT_ONCE | int(socket.MSG_PEEK)
_LAST = AT_ONCE | MORE
# What kind a socket is matters to nothing that is done with it; to have it found out would take two calls more.
_FAMILY, _STREAM = int(socket.AF_INET), int(socket.SOCK_STREAM)
_Socket = socket.SocketType


class BareAnswers:
    """Answers what has come on a connection, from its descriptor, if the connection ends with that.

    Only for a head that is known, a body that is whole, and a route whose requests are answered as they come; and
    where a socket can be asked `AT_ONCE`.
    """

    def __init__(self, lane: Lane, replies: Replies) -> None:
        self._known_heads = lane.known_heads
        self._telemetry = lane.telemetry
        self._replies = replies

    def answer(self, descriptor: int) -> bytes | None:
        """None when it has answered and ended the connection, as far as it was there at all.

        Otherwise it needs a transport: to be read, with all bytes where they were, or if there is a rest of a reply
        that the kernel did not take, to send that and end.
        """
        try:
            connection = _Socket(_FAMILY, _STREAM, 0, descriptor)
        except OSError:  # it is gone, as whoever goes on with it finds out
            return b""
        try:
            data = connection.recv(_FIRST_BYTES, _LOOK)
        except OSError:  # nothing has come, or the client is gone
            data = b""
        end = data.find(END_OF_HEAD) + 4
        head = self._known_heads.get(data[:end])
        route = None if head is None or head.keep_alive or len(data) - end != head.length else head.route
        if head is None or route is None or route.is_remote or not route.is_quick:
            connection.detach()
            return b""
        came = perf_counter()
        try:
            answered = self._replies.answer(head, route, data[end:], came, came + head.time_limit)
            if isinstance(answered, Due):  # it takes its time, and is asked for again by who can wait
                answered.reply.cancel()
                connection.detach()
                return b""
            reply, request_id, done = answered
            written = self._replies.written(reply, request_id, CLOSE)
            route.service_time.observe(done - came)
        except Exception as exc:  # it must not cost the connections that were handed over with this one
            self._telemetry.failed(exc, request_id=self._telemetry.request_id(None))
            connection.close()
            return None
        return _ended(connection, len(data), written)


def _ended(connection: socket.SocketType, unread: int, reply: bytes) -> bytes | None:
    """Send a reply, which leaves in one segment with the end of the connection; or the rest, if that stays open."""
    try:
        connection.recv(unread, AT_ONCE)  # to close with it unread would reset the connection
        rest = reply[connection.send(reply, _LAST) :]
        if not rest:
            connection.shutdown(socket.SHUT_WR)  # closing would wait for the supervisor to close its descriptor, too
    except BlockingIOError:
        rest = reply
    except OSError:  # the client is gone
        rest = b""
    if rest:
        connection.detach()
        return rest
    connection.close()
    return None
