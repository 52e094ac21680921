"""What libraries raise when there is not enough memory."""

_LIBRARIES = ("lightgbm", "onnxruntime", "xgboost")
_SIGNS = ("bad_alloc", "allocate memory", "out of memory")


def is_of_memory(exc: BaseException) -> bool:
    """Whether there was not enough memory, as far as a library lets one know.

    Only a library's own errors are believed by their text: others may repeat what a client sent.
    """
    seen: set[int] = set()
    at: BaseException | None = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, MemoryError):
            return True
        if type(at).__module__.partition(".")[0] in _LIBRARIES and any(sign in _text(at) for sign in _SIGNS):
            return True
        at = at.__cause__
    return False


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException:  # noqa: BLE001  # an error of a model's own that cannot be told
        return ""
