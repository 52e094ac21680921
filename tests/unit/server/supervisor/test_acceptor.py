import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from tests.waiting import DEADLINE
from weighbridge.server.channel import MOST_DESCRIPTORS
from weighbridge.server.supervisor.acceptor import Acceptor, _accept
from weighbridge.server.supervisor.listener import listen


class Taker:
    """Takes connections, as many as it has room for; then it stops the acceptor, as those who use it do."""

    def __init__(self, listener: socket.socket, *, room: int = 1000, inherited: bool = False) -> None:
        self.acceptor = Acceptor(listener, self.take, inherited=inherited)
        self.taken: list[int] = []
        self.room = room
        self._taken = asyncio.Event()

    def take(self, connections: list[int]) -> None:
        self.taken += connections
        self._taken.set()
        if len(self.taken) >= self.room:
            self.acceptor.stop()

    async def has(self, count: int) -> None:
        """Return when it has taken so many."""
        async with asyncio.timeout(DEADLINE):
            while len(self.taken) < count:
                self._taken.clear()
                await self._taken.wait()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as listener:
        yield listener


def clients(listener: socket.socket, count: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname(), timeout=DEADLINE) for _ in range(count)]


def close(connections: list[socket.socket], taken: list[int]) -> None:
    for connection in connections:
        connection.close()
    for descriptor in taken:
        os.close(descriptor)


def test_every_connection_is_given_away(listener: socket.socket) -> None:
    async def main() -> None:
        taker = Taker(listener)
        taker.acceptor.start()
        taker.acceptor.start()
        connected = clients(listener, 5)
        await taker.has(5)
        taker.acceptor.stop()
        close(connected, taker.taken)

    asyncio.run(main())


def test_who_connects_while_it_has_stopped_waits_until_it_is_started_again(listener: socket.socket) -> None:
    async def main() -> None:
        taker = Taker(listener, room=1)
        first = clients(listener, 1)
        taker.acceptor.start()
        await taker.has(1)
        connected = first + clients(listener, 4)
        taker.room = 1000
        taker.acceptor.start()
        await taker.has(5)
        taker.acceptor.stop()
        close(connected, taker.taken)

    asyncio.run(main())


def test_clients_that_come_again_at_once_leave_the_loop_its_turns(listener: socket.socket) -> None:
    async def main() -> None:
        happened: list[str] = []
        connected = clients(listener, 1)

        class Answering(Taker):
            """Has a client connect again as soon as it is taken, twice."""

            def take(self, connections: list[int]) -> None:
                happened.append("taken")
                if len(connected) < 3:
                    connected.extend(clients(listener, 1))
                asyncio.get_running_loop().call_soon(happened.append, "turn")
                super().take(connections)

        taker = Answering(listener)
        taker.acceptor.start()
        await taker.has(3)
        await asyncio.sleep(0)
        taker.acceptor.stop()

        assert happened == ["taken", "turn"] * 3
        close(connected, taker.taken)

    asyncio.run(main())


def test_in_the_end_what_has_queued_is_given_away_and_the_port_refuses_others(listener: socket.socket) -> None:
    async def main() -> None:
        taker = Taker(listener)
        address = listener.getsockname()
        connected = clients(listener, MOST_DESCRIPTORS + 5)
        await taker.acceptor.finish()
        taker.acceptor.start()

        assert len(taker.taken) == MOST_DESCRIPTORS + 5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        close(connected, taker.taken)

    asyncio.run(main())


def test_while_it_finishes_nobody_can_connect_any_more(listener: socket.socket) -> None:
    async def main() -> None:
        taker = Taker(listener)
        finishing = asyncio.ensure_future(taker.acceptor.finish())
        await asyncio.sleep(0)
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(listener.getsockname())
            await finishing

            with pytest.raises(OSError, match="not connected"):
                late.getpeername()
        assert taker.taken == []

    asyncio.run(main())


def test_an_inherited_socket_is_left_with_what_has_queued_in_it(listener: socket.socket) -> None:
    async def main() -> None:
        ours = listener.dup()
        taker = Taker(ours, inherited=True)
        taker.acceptor.start()
        taker.acceptor.stop()
        [waiting] = clients(listener, 1)
        await taker.acceptor.finish()

        assert taker.taken == []
        accepted, _ = listener.accept()
        close([waiting, accepted], [])

    asyncio.run(main())


class FailingListener(socket.socket):
    """A listening socket of which accepting fails first."""

    errors: list[OSError]

    def _accept(self) -> tuple[int, object]:
        if self.errors:
            raise self.errors.pop()
        accepted: tuple[int, object] = _accept(super())
        return accepted


@pytest.mark.parametrize("error", [ConnectionAbortedError(), OSError("out of descriptors")])
def test_after_an_error_it_accepts_on(error: OSError) -> None:
    async def main() -> None:
        with FailingListener() as listener:
            listener.errors = [error]
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            taker = Taker(listener)
            taker.acceptor.start()
            connected = clients(listener, 1)
            await taker.has(1)
            taker.acceptor.stop()
            close(connected, taker.taken)

    asyncio.run(main())
