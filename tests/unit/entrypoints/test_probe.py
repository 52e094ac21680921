import errno
import os

import pytest

from weighbridge.domain.errors import ModelRefused
from weighbridge.entrypoints.probe import _is_of_memory


def refused_for(cause: Exception) -> ModelRefused:
    """A refusal as the loader gives it."""
    refused = ModelRefused("models/churn/1/model.onnx: expected what the runtime onnx loads")
    refused.__cause__ = cause
    return refused


@pytest.mark.parametrize(
    "cause",
    [MemoryError(), RuntimeError("std::bad_alloc"), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "library.so")],
)
def test_a_library_that_lacks_memory_is_understood(cause: Exception) -> None:
    assert _is_of_memory(refused_for(cause))


def test_any_other_failure_is_not_for_want_of_memory() -> None:
    assert not _is_of_memory(refused_for(ValueError("expected a tensor")))
