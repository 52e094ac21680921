"""Has Python look as it does on the system that `ELSEWHERE` names, before a program begins: `posix`, `musl`, `windows`.

Python imports this by itself where its directory is in PYTHONPATH. A name with `_` at its end stands for all that begin
so.
"""

import errno
import fcntl
import os
import signal
import socket
import sys
from types import ModuleType

_OF_LINUX = {
    os: "memfd_create MFD_ pidfd_open sched_ SCHED_ posix_fadvise posix_fallocate eventfd EFD_ splice SPLICE_ waitid"
    " pipe2 O_TMPFILE O_PATH O_DIRECT O_LARGEFILE O_NOATIME",
    fcntl: "F_ADD_SEALS F_GET_SEALS F_SEAL_ F_OFD_ F_SETPIPE_SZ F_GETPIPE_SZ",
    socket: "SOCK_SEQPACKET SOCK_CLOEXEC SOCK_NONBLOCK MSG_MORE MSG_CMSG_CLOEXEC AF_NETLINK TCP_INFO",
    signal: "SIGRTMAX SIGRTMIN SIGPWR SIGPOLL SIGSTKFLT pidfd_send_signal",
}
_OF_POSIX = {
    os: "fork O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_NOCTTY O_CLOEXEC sysconf fchmod getuid setpriority getpriority PRIO_"
    " killpg setpgid pread pwrite",
    socket: "AF_UNIX CMSG_ MSG_DONTWAIT send_fds recv_fds SCM_",
    signal: "SIGHUP SIGKILL SIGUSR1 SIGCHLD SIGALRM SIGPIPE",
}
_MODULES_OF_POSIX = ("fcntl", "grp", "pwd", "resource", "termios", "uvloop")
_UNKNOWN_TO_MUSL = ("memfd_create", "pidfd_open", "sched_getaffinity", "sched_getscheduler", "sched_setscheduler")


def _take_away(names_of: dict[ModuleType, str], *modules: str) -> None:
    for module, text in names_of.items():
        names = text.split()
        prefixes = tuple(name for name in names if name.endswith("_"))
        for name in [name for name in dir(module) if name in names or name.startswith(prefixes)]:
            delattr(module, name)
    for module_name in modules:
        sys.modules[module_name] = None  # type: ignore[assignment]  # it is not found then


def _not_implemented(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


match os.environ["ELSEWHERE"]:
    case "posix":
        _take_away(_OF_LINUX, "uvloop")
    case "musl":
        for name in _UNKNOWN_TO_MUSL:
            setattr(os, name, _not_implemented)
    case _:
        _take_away(_OF_LINUX)
        _take_away(_OF_POSIX, *_MODULES_OF_POSIX)
        os.supports_dir_fd.clear()
