"""A worker whose application has a model that takes time."""

from benchmarks.torture.slow_model import slow_app
from weighbridge.server.edge.worker import work

if __name__ == "__main__":
    work(slow_app)
