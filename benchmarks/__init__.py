"""What the service costs, measured on the real thing: `make bench` runs them all."""
