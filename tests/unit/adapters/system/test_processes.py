import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable

import pytest

from tests.unit.adapters.system.failing import failing
from weighbridge.adapters.system.processes import can_be_started

Patch = pytest.MonkeyPatch


def test_processes_can_be_started_on_linux() -> None:
    assert can_be_started()


@pytest.mark.parametrize(
    "absence",
    [
        lambda patch: patch.delattr(os, "fork"),
        lambda patch: patch.delattr(socket, "SOCK_SEQPACKET"),
        lambda patch: patch.delattr(socket, "send_fds"),
        lambda patch: patch.delattr(os, "pidfd_open"),
        lambda patch: patch.setattr(os, "pidfd_open", failing(errno.ENOSYS)),
        lambda patch: patch.delattr(signal, "pidfd_send_signal"),
        lambda patch: patch.delattr(os, "memfd_create"),
        lambda patch: patch.delattr(fcntl, "F_ADD_SEALS"),
    ],
    ids=["fork", "messages", "descriptors", "pidfd", "ENOSYS", "signals", "memory", "seals"],
)
def test_no_process_can_be_started_without_any_one_of_what_it_takes(
    absence: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    absence(monkeypatch)

    assert not can_be_started()


def test_a_system_whose_descriptors_are_all_in_use_can_start_processes_later(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "pidfd_open", failing(errno.EMFILE))

    assert can_be_started()
