"""What starts things: the command line, and the application for any ASGI server."""
