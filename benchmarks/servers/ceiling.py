"""`python -m benchmarks.servers.ceiling --port PORT`: as little as a server can do with a connection for each request.

It accepts, reads what has come, sends the same bytes and closes; it looks at nothing, and does nothing else. Whoever
asks for more than it answers is the load generator: no server on the same core is asked for more.
"""

import argparse
import socket
from contextlib import suppress

_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 41\r\nconnection: close\r\n\r\n"
    b'{"prediction":-1.6875,"status":"success"}'
)
_BACKLOG = 1024
_LARGEST_REQUEST = 64 * 1024


def main() -> None:
    """Answer until the end of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    with socket.create_server(("127.0.0.1", parser.parse_args().port), backlog=_BACKLOG) as listener:
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.recv(_LARGEST_REQUEST)
                client.sendall(_REPLY)


if __name__ == "__main__":
    main()
