"""What a request to a trained model is made into: rows from bytes, scores, and bytes again."""

import gc
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json

from weighbridge.adapters.http.errors import Location, OfARow
from weighbridge.adapters.http.fast_route import Headers, Steps, check_is_json
from weighbridge.adapters.http.problems import Problem, RefusedRequest
from weighbridge.adapters.http.rows import count_marks, count_rows, without_texts
from weighbridge.adapters.http.signature_types import STRICT, SignatureTypes
from weighbridge.application.live import Later, Served
from weighbridge.domain.batch import Outputs
from weighbridge.domain.errors import FeatureCountMismatch, FeatureTooLarge, TooManyRows
from weighbridge.domain.signature import Signature

_JSON_SPACE = b" \t\r\n"
_LARGE = 200_000  # bytes of a body, times inputs: from there on pydantic takes longer with its own reader
_HARMLESS = 100_000  # bytes: whatever they are, they take some milliseconds, and megabytes
_BYTES_OF_A_MARK = 8  # at least, as JSON commonly has them
_BYTES_OF_A_BRACKET = 16


class Asked(NamedTuple):
    """Rows as `Batch` wants them; `alone` when the body is one row and no array."""

    rows: list[Any]
    alone: bool


def steps(served: Served, types: SignatureTypes, admit: Callable[[float], None] | None = None) -> Steps:
    """What is done with the body of a request for predictions; `admit` is asked before it is read."""
    signature = served.signature
    accepted = [column.name for column in signature.inputs]
    read = _reader(signature, types, served.max_rows)
    return Steps(read, _scorer(served), _writer(served), accepted, _place, admit)


def _reader(
    signature: Signature, types: SignatureTypes, max_rows: int
) -> Callable[[Headers, bytes | bytearray], Asked]:
    row, rows = TypeAdapter(types.row).validator, TypeAdapter(types.rows).validator
    read_row, read_rows = row.validate_json, rows.validate_json
    values = _values(signature)
    width = len(signature.inputs)
    check_number, check_marks = _number_check(max_rows), _marks_check(signature, max_rows)
    accept, judge = _acceptor(signature, types), _judge(row, rows, signature)

    def read(headers: Headers, body: bytes | bytearray) -> Asked:
        check_is_json(headers)
        alone = body[:1] == b"{" or body.lstrip(_JSON_SPACE)[:1] != b"["
        if not alone:
            check_number(body)
        if len(body) * width <= _LARGE:
            if alone:
                return Asked([values(read_row(body))], alone)
            return Asked([values(one) for one in read_rows(body)], alone)
        check_marks(body)
        gc.disable()  # the collector would walk over millions of lists again and again
        try:
            document = _parsed(body)
            return accept(document) or judge(document)
        finally:
            gc.enable()

    return read


def _parsed(body: bytes | bytearray) -> Any:
    """The values in a body, by pydantic's own parser. Raises ValidationError."""
    try:
        return from_json(body)
    except ValueError as exc:
        raise _in_json([{"type": "json_invalid", "loc": (), "ctx": {"error": str(exc)}}]) from None


def _acceptor(signature: Signature, types: SignatureTypes) -> Callable[[Any], Asked | None]:
    """What makes rows of a document that fits; of any other it says nothing."""
    validate = TypeAdapter(types.cells, config=STRICT).validator.validate_python
    values = _values(signature)
    width = len(signature.inputs)

    def accept(document: Any) -> Asked | None:
        alone = not isinstance(document, list)
        rows = [document] if alone else document
        try:
            cells = [values(row) for row in rows if len(row) == width]
            return Asked(validate(cells), alone) if len(cells) == len(rows) else None
        except (KeyError, TypeError, ValidationError):
            return None

    return accept


def _judge(row: Any, rows: Any, signature: Signature) -> Callable[[Any], Asked]:
    """What says of a document why it does not fit. Raises ValidationError."""
    values = _values(signature)
    known = {column.name for column in signature.inputs}

    def few_keys(one: Any) -> Any:
        """A row with one unknown key at most: pydantic makes an error of each, and there may be a million."""
        if type(one) is not dict or len(one) <= len(known):
            return one
        unknown = next(key for key in one if key not in known)
        return {key: value for key, value in one.items() if key in known or key == unknown}

    def judge(document: Any) -> Asked:
        try:
            if isinstance(document, list):
                return Asked([values(one) for one in rows.validate_python(list(map(few_keys, document)))], alone=False)
            return Asked([values(row.validate_python(few_keys(document)))], alone=True)
        except ValidationError as exc:
            raise _in_json(exc.errors(include_url=False)) from None

    return judge


def _in_json(errors: Iterable[Mapping[str, Any]]) -> ValidationError:
    """The errors as pydantic words them when it reads JSON itself."""
    details = [
        InitErrorDetails(
            # Of an integer beyond the doubles pydantic says that it is no number when it comes as Python's.
            type="finite_number" if (e["type"], type(e.get("input"))) == ("float_type", int) else e["type"],
            loc=e["loc"],
            input=None,
            ctx=e.get("ctx", {}),
        )
        for e in errors
    ]
    return ValidationError.from_exception_data("body", details, input_type="json")


def _number_check(limit: int) -> Callable[[bytes | bytearray], None]:
    """What raises RefusedRequest for an array of more rows than the model may be given."""

    def check(body: bytes | bytearray) -> None:
        if body.count(b"{") > limit:
            got = count_rows(body)
            if got > limit:
                raise RefusedRequest(Problem.TOO_MANY_ROWS, str(TooManyRows(limit=limit, got=got)))

    return check


def _marks_check(signature: Signature, max_rows: int) -> Callable[[bytes | bytearray], None]:
    """What raises ValidationError for a body that would cost far more than its bytes, before anything is made of it.

    Of `[],`, 3 bytes, the parser makes 64. Rows that fit have so many marks each: commas, colons, opening brackets. A
    body may have twice as many as such rows can have on its bytes, or as many as other JSON commonly has, so that
    clients that mistake the model are told what is wrong. With brackets, which cost most, it is less generous.
    """
    inputs = signature.inputs
    brackets = 1 + sum(column.width is not None for column in inputs)
    marks = brackets + len(inputs) + signature.width
    shortest = marks + signature.width + sum(len(orjson.dumps(column.name)) for column in inputs)

    def check(body: bytes | bytearray) -> None:
        if len(body) <= _HARMLESS:
            return
        rows = min(body.count(b"{"), max_rows, len(body) // shortest)
        limit = max(2 * rows * marks, len(body) // _BYTES_OF_A_MARK)
        opening_limit = max(rows * brackets + 1, len(body) // _BYTES_OF_A_BRACKET)
        got, opening = count_marks(body)
        if got > limit or opening > opening_limit:
            got, opening = count_marks(without_texts(body))
        if got > limit:
            raise _too_many(
                f"The body has {got} commas, colons and opening brackets; rows that fit have at most {limit}"
            )
        if opening > opening_limit:
            raise _too_many(f"The body has {opening} opening brackets; rows that fit have at most {opening_limit}")

    return check


def _too_many(message: str) -> ValidationError:
    error = PydanticCustomError("too_many_values", message)
    return ValidationError.from_exception_data("body", [{"type": error, "loc": (), "input": None}])


def _values(signature: Signature) -> Callable[[Mapping[str, Any]], Any]:
    """From a row by names to one that `Batch` takes. Raises KeyError, TypeError for what is none."""
    first, *others = (column.name for column in signature.inputs)
    if others or signature.vector is not None:
        return itemgetter(first, *others)
    return lambda row: (row[first],)


def _scorer(served: Served) -> Callable[[Asked], tuple[Outputs, bool] | Later[tuple[Outputs, bool]]]:
    def score(asked: Asked) -> tuple[Outputs, bool] | Later[tuple[Outputs, bool]]:
        outputs = served(asked.rows)
        if isinstance(outputs, Later):
            return outputs.then(partial(_answer, asked))
        return outputs, asked.alone

    return score


def _answer(asked: Asked, outputs: Outputs) -> tuple[Outputs, bool]:
    return outputs, asked.alone


def _writer(served: Served) -> Callable[[tuple[Outputs, bool], Headers], tuple[bytes, bytes]]:
    about = {"status": "success", "model": served.name, "version": served.version}
    names = [column.name for column in served.signature.outputs]
    single = len(names) == 1

    def write(answer: tuple[Outputs, bool], _headers: Headers) -> tuple[bytes, bytes]:
        outputs, alone = answer
        columns = [values.tolist() for values in outputs]
        if alone:
            row = columns[0][0] if single else {name: column[0] for name, column in zip(names, columns, strict=True)}
            return b"application/json", orjson.dumps({"prediction": row, **about})
        rows = columns[0] if single else [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return b"application/json", orjson.dumps({"predictions": rows, **about})

    return write


def _place(error: OfARow, asked: Asked) -> Location:
    """Where in the body the row is; only its place in an array is not told by the model."""
    row = () if asked.alone else (error.row or 0,)
    column = (error.column,) if isinstance(error, FeatureCountMismatch | FeatureTooLarge) else ()
    return ("body", *row, *column)
