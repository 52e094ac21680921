"""What a request to a trained model is made into: rows from bytes, scores, and bytes again."""

import gc
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails

from weighbridge.adapters.http.errors import Location, OfARow
from weighbridge.adapters.http.fast_route import Headers, Steps, check_is_json
from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.adapters.http.rows import count_rows
from weighbridge.adapters.http.signature_types import SignatureTypes
from weighbridge.application.registry import Served
from weighbridge.domain.batch import Outputs
from weighbridge.domain.errors import FeatureCountMismatch, TooManyRows
from weighbridge.domain.signature import Signature

_JSON_SPACE = b" \t\r\n"
_LARGE = 200_000  # bytes of a body, times inputs: up to there all errors together cost milliseconds


class Asked(NamedTuple):
    """Rows as `Batch` wants them; `alone` when the body is one row and no array."""

    rows: list[Any]
    alone: bool


def steps(served: Served, types: SignatureTypes) -> Steps:
    """What is done with the body of a request for predictions."""
    signature = served.signature
    accepted = [column.name for column in signature.inputs]
    return Steps(_reader(signature, types, served.max_rows), _scorer(served), _writer(served), accepted, _place)


def _reader(
    signature: Signature, types: SignatureTypes, max_rows: int
) -> Callable[[Headers, bytes | bytearray], Asked]:
    validate_row, validate_rows = _validator(types.row), _validator(types.rows)
    validate_open_row, validate_open_rows = map(_uncollected, map(_validator, (types.open_row, types.open_rows)))
    values = _values(signature)
    names = [column.name for column in signature.inputs]
    known = set(names)

    def read(headers: Headers, body: bytes | bytearray) -> Asked:
        check_is_json(headers)
        is_large = len(body) * len(names) > _LARGE
        if body[:1] == b"[" or body.lstrip(_JSON_SPACE)[:1] == b"[":
            _check_number(body, max_rows)
            if not is_large:
                return Asked([values(row) for row in validate_rows(body)], alone=False)
            rows = validate_open_rows(body)
            for place, row in enumerate(rows):
                if row.keys() != known:
                    raise _wrong_names(names, row, place)
            return Asked([values(row) for row in rows], alone=False)
        if not is_large:
            return Asked([values(validate_row(body))], alone=True)
        row = validate_open_row(body)
        if row.keys() != known:
            raise _wrong_names(names, row)
        return Asked([values(row)], alone=True)

    return read


def _validator(kind: Any) -> Callable[[bytes | bytearray], Any]:
    validate: Callable[[bytes | bytearray], Any] = TypeAdapter(kind).validator.validate_json
    return validate


def _uncollected(validate: Callable[[bytes | bytearray], Any]) -> Callable[[bytes | bytearray], Any]:
    """What validates without the collector, which would walk over millions of lists again and again."""

    def validate_large(body: bytes | bytearray) -> Any:
        gc.disable()
        try:
            return validate(body)
        finally:
            gc.enable()

    return validate_large


def _wrong_names(names: Sequence[str], row: Mapping[str, Any], *place: int) -> ValidationError:
    """What is said of a row whose keys are not just the `names`.

    pydantic makes an error of each unknown key, and for each that is missing a copy of the whole row: minutes and
    gigabytes for a body that means harm. These errors cost nothing.
    """
    wrong = [InitErrorDetails(type="missing", loc=(*place, name), input=None) for name in names if name not in row]
    if len(row) > len(names) - len(wrong):
        wrong.append(InitErrorDetails(type="extra_forbidden", loc=(*place, ""), input=None))
    return ValidationError.from_exception_data("row", wrong)


def _check_number(body: bytes | bytearray, limit: int) -> None:
    """Raises RefusedRequest for more rows than the model may be given.

    They are counted before they are made: two million fit in a body, and would take a gigabyte.
    """
    if body.count(b"{") > limit:
        got = count_rows(body)
        if got > limit:
            raise RefusedRequest(Problem.TOO_MANY_ROWS, str(TooManyRows(limit=limit, got=got)))


def _values(signature: Signature) -> Callable[[Mapping[str, Any]], Any]:
    """From a row by names to one that `Batch` takes."""
    first, *others = (column.name for column in signature.inputs)
    if others or signature.vector is not None:
        return itemgetter(first, *others)
    return lambda row: (row[first],)


def _scorer(served: Served) -> Callable[[Asked], tuple[Outputs, bool]]:
    return lambda asked: (served(asked.rows), asked.alone)


def _writer(served: Served) -> Callable[[tuple[Outputs, bool], Headers], tuple[bytes, bytes]]:
    about = {"status": "success", "model": served.name, "version": served.version}
    names = [column.name for column in served.signature.outputs]
    single = len(names) == 1

    def write(answer: tuple[Outputs, bool], _headers: Headers) -> tuple[bytes, bytes]:
        outputs, alone = answer
        columns = [values.tolist() for values in outputs]
        rows = columns[0] if single else [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        content = {"prediction": rows[0], **about} if alone else {"predictions": rows, **about}
        return b"application/json", orjson.dumps(content)

    return write


def _place(error: OfARow, asked: Asked) -> Location:
    """Where in the body the row is; only its place in an array is not told by the model."""
    row = () if asked.alone else (error.row or 0,)
    column = (error.column,) if isinstance(error, FeatureCountMismatch) else ()
    return ("body", *row, *column)
