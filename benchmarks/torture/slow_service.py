"""`python -m benchmarks.torture.slow_service`: the real service, with a model that takes time."""

from benchmarks.torture.slow_model import slow_app
from weighbridge.server.listener import listen
from weighbridge.server.worker import serve
from weighbridge.settings import Settings

if __name__ == "__main__":
    settings = Settings.load()
    serve(lambda: slow_app(settings), listen(settings.host, settings.port), settings, tls=None, on_started=lambda: None)
