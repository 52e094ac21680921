"""What endpoints are given: application-scoped values, which the container builds once at start-up.

An endpoint asks for one in its signature, `def predict(body: ModelInput, predict: PredictDep)`. FastAPI resolves it for
each request; `FastRoute` resolves it once, when the application has started.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from weighbridge.application.predict import PredictUseCase
from weighbridge.application.readiness import Readiness


class ApplicationScoped:
    """A dependency with one value for the life of the application: a provider of its container, by name."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def of(self, app: FastAPI) -> Any:
        """The value that `app` holds."""
        provide: Callable[[], Any] = getattr(app.state.container, self._provider)
        return provide()

    async def __call__(self, request: Request) -> Any:
        """The same, as FastAPI asks for it."""
        return self.of(request.app)


PredictDep = Annotated[PredictUseCase, Depends(ApplicationScoped("predict"))]
ReadinessDep = Annotated[Readiness, Depends(ApplicationScoped("readiness"))]
