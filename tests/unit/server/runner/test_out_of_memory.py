import pytest
from typing_extensions import override

from weighbridge.domain.errors import ModelRefused
from weighbridge.server.runner.out_of_memory import is_of_memory


def error_of(module: str, text: str) -> Exception:
    """An error of a library's own."""
    error: Exception = type("Error", (Exception,), {"__module__": module})(text)
    return error


def refused_for(cause: Exception) -> ModelRefused:
    """A refusal as the loader gives it."""
    refused = ModelRefused("models/churn/1/model.onnx: expected what the runtime onnx loads")
    refused.__cause__ = cause
    return refused


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        refused_for(MemoryError()),
        refused_for(error_of("xgboost.core", "std::bad_alloc")),
    ],
)
def test_a_library_that_lacks_memory_is_understood(error: Exception) -> None:
    assert is_of_memory(error)


def _own_cause() -> Exception:
    error = ValueError("expected a tensor")
    error.__cause__ = error
    return error


class Untellable(Exception):
    """It cannot be told."""

    __module__ = "xgboost.core"

    @override
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [
        refused_for(ValueError("out of memory, says the client")),
        refused_for(error_of("xgboost.core", "expected a tensor")),
        _own_cause(),
        Untellable(),
    ],
)
def test_any_other_failure_is_not_for_want_of_memory(error: Exception) -> None:
    assert not is_of_memory(error)
