"""Whether this process should be sent requests."""

from weighbridge.domain.errors import WeighbridgeError


class NotReady(WeighbridgeError):
    """The service takes no requests now; the message is the reason."""


class Readiness:
    """Not ready until start-up has ended, nor once the service drains."""

    def __init__(self) -> None:
        self._reason: str | None = "starting"

    def check(self) -> None:
        """Raises NotReady, with the reason."""
        if self._reason is not None:
            raise NotReady(self._reason)

    def started(self) -> None:
        """Start-up has ended: the model is loaded and every collaborator built."""
        self._reason = None

    def draining(self) -> None:
        """The service is going to stop: what is in hand is finished, new requests should go elsewhere."""
        self._reason = "draining"
