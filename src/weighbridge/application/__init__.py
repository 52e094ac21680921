"""What the service does, whoever asks: use cases, and the ports through which they reach the outside."""
