"""The supervisor: it accepts connections, keeps workers alive and decides which versions are live."""
