import os
import socket
from collections.abc import Iterator

import pytest
from typing_extensions import override

from tests.starving import open_files, room_for
from weighbridge.server.channel import MOST_DESCRIPTORS, Channel, NoRoom, Word


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Word.START, "some text with spaces")
    one.send(Word.DRAIN)

    assert other.receive() == (Word.START, "some text with spaces", [])
    assert other.receive() == (Word.DRAIN, "", [])


def test_descriptors_arrive_in_order_as_the_receivers_own(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    pipes = [os.pipe() for _ in range(MOST_DESCRIPTORS)]
    assert one.send(Word.CONNECTIONS, str(len(pipes)), [writer for _, writer in pipes])
    for _, writer in pipes:
        os.close(writer)
    for number, received in enumerate(other.receive()[2]):
        os.write(received, b"%d" % number)
        os.close(received)

    assert [os.read(reader, 3) for reader, _ in pipes] == [b"%d" % number for number in range(len(pipes))]
    for reader, _ in pipes:
        os.close(reader)


def test_receiving_never_waits(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive()


def test_an_end_that_is_closed_is_told_after_what_it_sent(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Word.CLOSE)
    one.close()

    assert other.receive() == (Word.CLOSE, "", [])
    with pytest.raises(EOFError):
        other.receive()


def test_an_end_that_was_closed_with_messages_unread_is_closed_all_the_same(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send(Word.CLOSE)
    one.close()

    with pytest.raises(EOFError):
        other.receive()


def test_nothing_can_be_sent_to_an_end_that_is_closed(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.close()

    assert not other.send(Word.DRAIN)


def test_sending_never_waits_for_an_end_that_reads_nothing(ends: tuple[Channel, Channel]) -> None:
    one, _ = ends
    with socket.socket() as connection:
        sent = 0
        while one.send(Word.CONNECTIONS, "1", [connection.fileno()]):
            sent += 1

    assert sent > 10


def test_connections_that_find_no_room_stay_until_there_is_some(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Word.CONNECTIONS, "1", [0, 1, 2])
    before = open_files()
    for room in (0, 2):
        with room_for(room), pytest.raises(NoRoom):
            other.receive()
    assert open_files() == before
    with room_for(3):
        word, text, descriptors = other.receive()

    assert (word, text, len(descriptors)) == (Word.CONNECTIONS, "1", 3)
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_comes_again_comes_without_the_descriptor_that_finds_no_room(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Word.CATALOGUE, "", [0])
    with room_for(0):
        assert other.receive() == (Word.CATALOGUE, "", [])


class Contested(socket.socket):
    """An end that another process reads as well: it takes a message between two looks of this one."""

    @override
    def recv(self, *arguments: int) -> bytes:
        super().recv(*arguments)
        return super().recv(*arguments)


def test_connections_that_another_process_has_taken_meanwhile_are_not_had_twice() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, Contested(fileno=far.detach()) as contested:
        one, other = Channel(near), Channel(contested)
        before = open_files()
        one.send(Word.CONNECTIONS, "1", [0])
        with pytest.raises(BlockingIOError):
            other.receive()
        one.send(Word.CONNECTIONS, "2", [0])
        one.send(Word.DRAIN)

        assert other.receive() == (Word.DRAIN, "", [])
        assert open_files() == before
