import os
import socket
from collections.abc import Iterator

import pytest

from weighbridge.server.channel import Channel, Word


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

    assert other.receive() == (Word.START, "some text with spaces", None)
    assert other.receive() == (Word.DRAIN, "", None)


def test_a_descriptor_arrives_as_one_of_the_receivers_own(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    reader, writer = os.pipe()
    assert one.send(Word.CONNECTION, descriptor=writer)
    os.close(writer)
    message = other.receive()
    assert message is not None
    received = message[2]
    assert received is not None
    os.write(received, b"x")
    os.close(received)

    assert os.read(reader, 2) == b"x"
    os.close(reader)


def test_receiving_never_waits(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive()


def test_an_end_that_is_closed_is_told_after_what_it_sent(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Word.CLOSE)
    one.close()

    assert other.receive() == (Word.CLOSE, "", None)
    assert other.receive() is None


def test_an_end_that_was_closed_with_messages_unread_is_closed_all_the_same(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send(Word.CLOSE)
    one.close()

    assert other.receive() is None


def test_nothing_can_be_sent_to_an_end_that_is_closed(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.close()

    assert not other.send(Word.DRAIN)


def test_sending_never_waits_for_an_end_that_reads_nothing(ends: tuple[Channel, Channel]) -> None:
    one, _ = ends
    with socket.socket() as connection:
        sent = 0
        while one.send(Word.CONNECTION, descriptor=connection.fileno()):
            sent += 1

    assert sent > 10
