"""What the service costs before it has done anything: time from process start to the first answer, and memory.

Each service is started several times in turn, on a free port, and asked until it answers 200. Memory is that of the
serving process: PSS, in which a page that n processes share counts an nth, and RSS, in which it counts whole. Alone on
a machine, PSS comes close to RSS; beside other Python processes it is lower.
"""

import asyncio
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

RUNS = 7
SECONDS = 30.0

# A text, since importing FastAPI here would share its pages with the processes that are measured.
BARE_FASTAPI = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

class ModelInput(BaseModel):
    features: list[float]

app = FastAPI()

@app.get("/health")
async def health():
    return {"status": "healthy"}

@app.post("/predict")
async def predict(body: ModelInput):
    return {"prediction": sum(f * w for f, w in zip(body.features, (0.25, -0.5, 1.25, 0.0)))}

uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""

SERVICES: dict[str, Callable[[int], list[str]]] = {
    "weighbridge": lambda port: ["-m", "weighbridge", "serve", "--port", str(port), "--log-level", "error"],
    "bare FastAPI": lambda port: ["-c", BARE_FASTAPI, str(port)],
}


class Footprint(NamedTuple):
    """Seconds to the first answer, and MB of the process then."""

    seconds: float
    pss: float
    rss: float


async def measure(arguments: Callable[[int], list[str]]) -> Footprint:
    """Start Python with `arguments` for a free port, and measure it at its first answer."""
    port = _free_port()
    started = perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments(port))
    try:
        async with asyncio.timeout(SECONDS):
            await _first_answer(port)
        seconds = perf_counter() - started
        return Footprint(seconds, *_memory(process.pid))
    finally:
        process.terminate()
        await process.wait()


async def _first_answer(port: int) -> None:
    """Return when the service on `port` has answered 200."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            reply = await reader.read()
            writer.close()
            if reply.startswith(b"HTTP/1.1 200 "):
                return
        except OSError:  # nothing listens yet
            await asyncio.sleep(0.002)


def _free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        port: int = any_socket.getsockname()[1]
        return port


def _memory(pid: int) -> tuple[float, float]:
    """PSS and RSS of a process, in MB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    pss, rss = (int(re.findall(rf"^{name}: +(\d+) kB$", rollup, re.MULTILINE)[0]) for name in ("Pss", "Rss"))
    return pss * 1024 / 1e6, rss * 1024 / 1e6


async def main() -> None:
    """Print the medians for each service."""
    measured: dict[str, list[Footprint]] = {name: [] for name in SERVICES}
    for run in range(RUNS + 1):
        for name, arguments in SERVICES.items():
            footprint = await measure(arguments)
            if run:  # the first run warms the file cache and writes byte code
                measured[name].append(footprint)
    sys.stdout.write(f"medians of {RUNS} starts    first answer        PSS        RSS\n")
    for name, footprints in measured.items():
        seconds, pss, rss = map(median, zip(*footprints, strict=True))
        sys.stdout.write(f"{name:<22} {seconds:11.2f} s {pss:7.1f} MB {rss:7.1f} MB\n")


if __name__ == "__main__":
    asyncio.run(main())
