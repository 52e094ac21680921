"""`python -m weighbridge` is the command `weighbridge`."""

from weighbridge.entrypoints.cli import main

if __name__ == "__main__":
    main(prog_name="weighbridge")
