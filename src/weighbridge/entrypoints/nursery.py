"""The program of a nursery: `python -m weighbridge.entrypoints.nursery`, the descriptor of its channel, its parent."""

from weighbridge.server.runner.nursery import main

if __name__ == "__main__":
    main()
