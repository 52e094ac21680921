"""The only code that asks the operating system: a Linux way, and a plain floor under each function."""
