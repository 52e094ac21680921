"""The rights that a process gives up before it opens an artefact: by Landlock, and by a filter of system calls.

Landlock governs files, TCP, signals and abstract sockets (https://docs.kernel.org/userspace-api/landlock.html). The
filter needs libseccomp, and governs programs, other processes and all other sockets.
"""

import errno
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from weighbridge.settings import Rights

_WHOLE_ABI = 6  # of Landlock: the first that scopes signals and abstract sockets

_READABLE = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",  # shared libraries
    "/etc/localtime", "/usr/share/zoneinfo",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    "/dev/null", "/dev/urandom", "/dev/zero",
)  # fmt: skip
"""Files and directories that libraries read to fit themselves to the machine; none tells of another process."""

_NAME_RESOLUTION = ("/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf")
_DNS_PORT = 53

_FORBIDDEN = (
    "execve", "execveat",
    "kcmp", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace",  # other processes
    "setpgid", "setsid",  # the group is killed together
    "io_uring_setup",  # its operations pass no filter
    "add_key", "keyctl", "request_key",
    "bpf", "perf_event_open", "userfaultfd",
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_by_handle_at",
    "open_tree", "pivot_root", "setns", "umount2", "unshare",
)  # fmt: skip
_INET, _INET6 = 2, 10  # address families of Linux' socket.h


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What this machine offers: the version of Landlock's ABI, 0 without it, and whether system calls are filtered."""

    landlock: int
    filters: bool

    @classmethod
    def offered(cls) -> Self:
        """The offer of this kernel and of the libraries that are installed."""
        landlock, filters = 0, False
        with suppress(ImportError, OSError):
            landlock = import_module("landlockpy").abi_version()
        with suppress(ImportError, OSError, RuntimeError):  # pyseccomp raises the last without libseccomp
            import_module("pyseccomp")
            filters = True
        return cls(landlock, filters)

    @property
    def lacking(self) -> list[str]:
        """What would have to be there for it to leave nothing open."""
        return [
            *([f"Landlock of version {_WHOLE_ABI} or later in the kernel"] if self.landlock < _WHOLE_ABI else ()),
            *(["libseccomp"] if not self.filters else ()),
        ]

    @property
    def words(self) -> str:
        """The offer for an operator to read."""
        landlock = f"Landlock, version {self.landlock}" if self.landlock else "no Landlock"
        return f"{landlock}; {'system calls are filtered' if self.filters else 'no filter of system calls'}"

    def enter(self, rights: Rights) -> None:
        """Give up all other rights for ever: in this thread, and in those and the processes that it starts from now on.

        Raises OSError where a path of `rights` is not there, or the kernel refuses.
        """
        if self.landlock:
            _restrict_files(rights)
        if self.filters:
            _filter_calls(rights)


def _restrict_files(rights: Rights) -> None:
    landlock: Any = import_module("landlockpy")
    access, network, scope = landlock.AccessFS, landlock.AccessNet, landlock.Scope
    reading = access.READ_FILE | access.READ_DIR
    writing = reading | access.WRITE_FILE | access.TRUNCATE | access.REFER
    writing |= access.MAKE_REG | access.MAKE_DIR | access.REMOVE_FILE | access.REMOVE_DIR
    of_files = access.READ_FILE | access.WRITE_FILE | access.TRUNCATE
    offered = [(path, reading) for path in (*_importable(), *_READABLE, *(_NAME_RESOLUTION if rights.connect else ()))]
    offered.append(("/dev/null", writing))
    granted = [*((path, reading) for path in rights.read), *((path, writing) for path in rights.write)]
    with landlock.Ruleset(scoped=scope.SIGNAL | scope.ABSTRACT_UNIX_SOCKET) as ruleset:
        for path, allowed in (*((path, allowed) for path, allowed in offered if Path(path).exists()), *granted):
            ruleset.allow_path(path, allowed if Path(path).is_dir() else allowed & of_files)
        for port in rights.connect:
            ruleset.allow_port(port, network.CONNECT_TCP)
        if rights.connect:
            ruleset.allow_port(_DNS_PORT, network.CONNECT_SEND_UDP)
        ruleset.restrict()


def _importable() -> list[str]:
    """The places that Python imports from: all in full, so that none is the working directory of the moment."""
    own = [f"{sys.base_prefix}/lib", f"{sys.prefix}/lib", f"{sys.prefix}/pyvenv.cfg"]
    return own + [path for path in sys.path if Path(path).is_absolute()]


def _filter_calls(rights: Rights) -> None:
    seccomp: Any = import_module("pyseccomp")
    refusal = seccomp.ERRNO(errno.EPERM)
    calls = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in _FORBIDDEN:
        with suppress(OSError):  # a call that this machine does not have
            calls.add_rule(refusal, name)
    if rights.connect:
        calls.add_rule(refusal, "socket", seccomp.Arg(0, seccomp.LT, _INET))
        calls.add_rule(refusal, "socket", seccomp.Arg(0, seccomp.GT, _INET6))
        for family in range(_INET + 1, _INET6):
            calls.add_rule(refusal, "socket", seccomp.Arg(0, seccomp.EQ, family))
    else:
        calls.add_rule(refusal, "socket")
    calls.load()
