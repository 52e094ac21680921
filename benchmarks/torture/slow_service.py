"""`python -m benchmarks.torture.slow_service`: the real service, with a model that takes time in its workers."""

import sys

from weighbridge.entrypoints.serve import serve

if __name__ == "__main__":
    serve({}, worker=(sys.executable, "-m", "benchmarks.torture.slow_worker"))
