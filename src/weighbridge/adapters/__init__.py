"""How the ports are provided, and how the service is reached: one file for each mechanism."""
