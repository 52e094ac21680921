"""How systemd passes a socket on to a service."""

import sys

# The descriptor is 3, and the variables name the very process that has it.
_HAND_ON = """
import os, sys
descriptor, *program = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("OFF_BY", "0")))
os.execv(sys.executable, [sys.executable, *program])
"""


def handing_on(descriptor: int, *arguments: str) -> list[str]:
    """The command of Python with these arguments, given a descriptor that it inherits as systemd's socket.

    The variable OFF_BY has it meant for another process, whose id is that much higher.
    """
    return [sys.executable, "-c", _HAND_ON, str(descriptor), *arguments]
