"""Handing connections over: each to the worker with the fewest; what none takes waits."""

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from math import ceil

from weighbridge.adapters.process_metrics import WorkerState
from weighbridge.server.channel import Word
from weighbridge.server.supervisor.acceptor import Acceptor
from weighbridge.server.supervisor.process import Batch, WorkerProcess


class Dispatcher:
    """Gives connections to those of `workers`, who come and go, and accepts from a listening socket once it is open.

    A connection is its descriptor, and the dispatcher's to close.
    """

    def __init__(self, listener: socket.socket, workers: Collection[WorkerProcess], *, inherited: bool) -> None:
        self._acceptor = Acceptor(listener, self.give, inherited=inherited)
        self._workers = workers
        self._waiting: list[Batch] = []
        self._is_open = False
        self._last_call = False

    def give(self, connections: Sequence[int], *, kept: bool = False) -> None:
        """Hand each connection to the worker with the fewest; what none takes waits, and no more are accepted.

        They are `kept` where they have had a request.
        """
        room = {worker: worker.room for worker in self._workers if worker.room > 0}
        if not room and self._last_call:  # one that is full or silent is better than none
            room = {worker: len(connections) for worker in self._workers if worker.state is WorkerState.READY}
        shares: defaultdict[WorkerProcess, list[int]] = defaultdict(list)
        left = []
        for connection in connections:
            worker = max(room, key=room.__getitem__, default=None)
            if worker is None:
                left.append(connection)
                continue
            shares[worker].append(connection)
            room[worker] -= 1
            if not room[worker]:
                del room[worker]
        for worker, share in shares.items():
            taken = worker.take(share, kept=kept)
            for connection in share[:taken]:
                os.close(connection)
            if taken < len(share):
                asyncio.get_running_loop().add_writer(worker.channel.fileno(), self._offer_again, worker)
            left += share[taken:]
        if left:
            self._waiting.append(Batch(left, kept))
            self._acceptor.stop()

    def give_again(self, batches: Iterable[Batch]) -> None:
        """Hand over connections that a worker has not taken, or has handed back."""
        for batch in batches:
            self.give(batch.connections, kept=batch.kept)

    def offer(self) -> None:
        """Hand over what waits, and accept again if a worker takes more."""
        waiting, self._waiting = self._waiting, []
        self.give_again(waiting)
        if self._is_open and not self._waiting and any(worker.room > 0 for worker in self._workers):
            self._acceptor.start()

    def spread(self) -> None:
        """Have workers with more than their share of all connections hand the rest back, for one that has come."""
        ready = [worker for worker in self._workers if worker.state is WorkerState.READY]
        share = ceil(sum(worker.connections for worker in ready) / len(ready))
        for worker in ready:
            if worker.connections > share:
                worker.tell(Word.SHARE, str(worker.connections - share))

    def _offer_again(self, worker: WorkerProcess) -> None:
        asyncio.get_running_loop().remove_writer(worker.channel.fileno())
        self.offer()

    def open(self) -> None:
        """Accept whenever a worker takes more, from now on."""
        self._is_open = True
        self.offer()

    async def finish(self) -> None:
        """Hand over all that has come, to workers without room if need be, and refuse what comes from now on."""
        self._last_call = True
        self.offer()
        await self._acceptor.finish()

    def stop(self) -> None:
        """Accept no more."""
        self._is_open = False
        self._acceptor.stop()

    def close(self) -> None:
        """End what nobody has taken."""
        for batch in self._waiting:
            for connection in batch.connections:
                os.close(connection)
