"""The contract as a table: what is asked, and what must come back, whoever carries it.

Each row of "JSON bodies" and of the contract has its cases here; they are run against the application in this process,
and one for each path and kind of reply against the real one on its port. All hold for the settings as they ship.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx2

JSON = {"content-type": "application/json"}
GOOD = b'{"features":[1.5,2.25,-0.75,4.0]}'
GOOD_BATCH = b'{"instances":[[1.5,2.25,-0.75,4.0],[1,1,1,1]],"scale_factor":2}'
_MIB = 1024 * 1024
_SMALL = 2048
_OWN_WORDS = {b"features", b"instances", b"scale_factor"}
_WORD = re.compile(rb"[\w.+-]{5,}")


@dataclass(frozen=True)
class Case:
    """One request and its reply: `code` for a problem, otherwise `answer`, the JSON that comes back."""

    name: str
    method: str
    path: str
    status: int
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    answer: Any = None
    code: str = ""
    detail: str | None = None
    loc: tuple[str | int, ...] | None = None
    reply_headers: dict[str, str] = field(default_factory=dict)

    def check(self, client: httpx2.Client) -> None:
        """Ask, and assert that the reply is the one of the table."""
        reply = client.request(self.method, self.path, content=self.body, headers=self.headers)
        assert reply.status_code == self.status, reply.text[:_SMALL]
        assert reply.headers["x-request-id"]
        for name, value in self.reply_headers.items():
            assert reply.headers[name] == value
        if self.code:
            self._check_problem(reply)
        elif self.answer is not None:
            assert reply.headers["content-type"] == "application/json"
            assert repr(reply.json()) == repr(self.answer)  # as texts, so that -0.0 is not 0.0

    def _check_problem(self, reply: httpx2.Response) -> None:
        assert reply.headers["content-type"] == "application/problem+json"
        assert len(reply.content) < _SMALL
        problem = reply.json()
        errors = problem.pop("errors", [])
        assert problem.keys() == {"type", "title", "status", "detail", "code", "request_id"}
        assert problem["status"] == self.status
        assert problem["code"] == self.code
        assert problem["type"] == f"urn:weighbridge:{self.code}"
        assert problem["request_id"] == reply.headers["x-request-id"]
        assert isinstance(problem["title"], str)
        assert isinstance(problem["detail"], str)
        assert all(item.keys() == {"loc", "code", "message"} for item in errors)
        assert bool(errors) == (self.status == 422 or self.code == "feature_count_mismatch")
        if self.detail is not None:
            assert problem["detail"] == self.detail
        if self.loc is not None:
            assert self.loc in [tuple(item["loc"]) for item in errors]
        self._check_that_nothing_is_echoed(reply.content)

    def _check_that_nothing_is_echoed(self, reply: bytes) -> None:
        words = set(_WORD.findall(self.body or b"")) - _OWN_WORDS
        assert not {word for word in words if word in reply}


def _json_invalid(name: str, body: bytes) -> Case:
    return Case(name, "POST", "/predict", 422, body, code="json_invalid", loc=("body",))


def _invalid(name: str, body: bytes, *loc: str | int, path: str = "/predict", detail: str | None = None) -> Case:
    return Case(name, "POST", path, 422, body, code="input_invalid", loc=("body", *loc), detail=detail)


def _feature(name: str, literal: bytes) -> Case:
    return _invalid(f"{name} as a feature", b'{"features":[' + literal + b",2,3,4]}", "features", 0)


def _scale_factor(name: str, literal: bytes) -> Case:
    body = b'{"features":[1,2,3,4],"scale_factor":' + literal + b"}"
    return _invalid(f"{name} as the scale factor", body, "scale_factor")


def _in_a_row(name: str, literal: bytes) -> Case:
    body = b'{"instances":[[1,2,3,4],[1,' + literal + b",3,4]]}"
    return _invalid(f"{name} in a row", body, "instances", 1, 1, path="/predict/batch")


def _scored(name: str, body: bytes, prediction: float) -> Case:
    return Case(name, "POST", "/predict", 200, body, answer={"prediction": prediction, "status": "success"})


def _typed(name: str, status: int, headers: dict[str, str]) -> Case:
    if status == 200:
        return Case(name, "POST", "/predict", 200, GOOD, headers, {"prediction": -1.6875, "status": "success"})
    return Case(name, "POST", "/predict", 415, GOOD, headers, code="unsupported_media_type")


def _not_found(name: str, path: str, method: str = "GET") -> Case:
    return Case(name, method, path, 404, headers={}, code="not_found", detail="GET / lists the pages of the service")


def _wrong_method(method: str, path: str, allow: str) -> Case:
    return Case(
        f"{method} {path}",
        method,
        path,
        405,
        headers={},
        code="" if method == "HEAD" else "method_not_allowed",
        reply_headers={"allow": allow},
    )


NUMBERS_THAT_ARE_NONE = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "1e999": b"1e999",
    "a string with a number": b'"1.5"',
    "a string with a number in blanks": b'"  7 "',
    "a string with a number in groups": b'"1_000"',
    "true": b"true",
    "false": b"false",
    "null": b"null",
    "an object": b'{"value":1}',
    "an array": b"[1]",
    "a 400-digit integer": b"1" * 400,
    "a 400-digit negative integer": b"-" + b"9" * 400,
    "a 1 MB string": b'"' + b"x" * _MIB + b'"',
}

CONTRACT = [
    Case(
        "a row",
        "POST",
        "/predict",
        200,
        b'{"features":[1.5,2.25,-0.75,4.0],"scale_factor":1.0}',
        answer={"prediction": -1.6875, "status": "success"},
    ),
    _scored("a row without a scale factor", GOOD, -1.6875),
    _scored("a row with a scale factor", b'{"features":[1.5,2.25,-0.75,4.0],"scale_factor":2}', -3.375),
    *(
        Case(
            f"{count} features",
            "POST",
            "/predict",
            400,
            json.dumps({"features": [1.0] * count}).encode(),
            code="feature_count_mismatch",
            detail=f"expected 4 features, got {count}",
            loc=("body", "features"),
        )
        for count in (0, 1, 3, 5, 10_000)
    ),
    Case(
        "a batch",
        "POST",
        "/predict/batch",
        200,
        GOOD_BATCH,
        answer={"predictions": [-3.375, 2.0], "status": "success"},
    ),
    Case("health", "GET", "/health", 200, headers={}, answer={"status": "healthy", "engine": "FastAPI-ML"}),
    Case("livez", "GET", "/livez", 200, headers={}, answer={"status": "live"}),
    Case("readyz", "GET", "/readyz", 200, headers={}, answer={"status": "ready"}),
    Case("a query is ignored", "GET", "/health?x=1", 200, headers={}),
]

JSON_BODIES = [
    # not JSON, truncated, trailing junk, empty
    _json_invalid("not JSON", b"nonsense"),
    _json_invalid("form data", b"features=1&features=2"),
    _json_invalid("single quotes", b"{'features':[1,2,3,4]}"),
    _json_invalid("a comment", b'{"features":[1,2,3,4]} // weights'),
    _json_invalid("a trailing comma", b'{"features":[1,2,3,4],}'),
    _json_invalid("a number with a leading zero", b'{"features":[01,2,3,4]}'),
    _json_invalid("a number with a leading point", b'{"features":[.5,2,3,4]}'),
    _json_invalid("a number with a trailing point", b'{"features":[1.,2,3,4]}'),
    _json_invalid("a number with a plus", b'{"features":[+1,2,3,4]}'),
    _json_invalid("a hexadecimal number", b'{"features":[0x10,2,3,4]}'),
    _json_invalid("a 5,000-digit integer", b'{"features":[' + b"1" * 5000 + b",2,3,4]}"),
    _json_invalid("truncated", b'{"features":[1,2,3,4]'),
    _json_invalid("truncated in a string", b'{"feat'),
    _json_invalid("trailing junk", GOOD + b" junk!"),
    _json_invalid("two documents", GOOD + GOOD),
    _json_invalid("a trailing NUL", GOOD + b"\0"),
    _json_invalid("empty", b""),
    _json_invalid("blank", b" \r\n\t"),
    # NaN, Infinity, 1e999; strings and booleans as numbers; 400 digits; null; 1 MB strings
    *(
        make(name, text)
        for make in (_feature, _scale_factor, _in_a_row)
        for name, text in NUMBERS_THAT_ARE_NONE.items()
    ),
    _invalid("a 1 MB string for the features", b'{"features":"' + b"x" * _MIB + b'"}', "features"),
    # null
    _invalid("null", b"null"),
    _invalid("null for the features", b'{"features":null}', "features"),
    _invalid("null for the rows", b'{"instances":null}', "instances", path="/predict/batch"),
    _invalid("null for a row", b'{"instances":[null]}', "instances", 0, path="/predict/batch"),
    # what is JSON, but no object with our keys
    *(
        _invalid(f"{text.decode()} as the body", text)
        for text in (b"[]", b"3", b'"text"', b"true", b"[1.5,2.25,-0.75]")
    ),
    _invalid("no features", b"{}", "features"),
    _invalid("an object for the features", b'{"features":{"0":1}}', "features"),
    _invalid("a number for the features", b'{"features":1}', "features"),
    # unknown keys
    *(
        _invalid(name, body, detail="body: Unknown keys; allowed: features, scale_factor")
        for name, body in {
            "an unknown key": b'{"features":[1,2,3,4],"colour":1}',
            "50 unknown keys": b'{"features":[1,2,3,4],' + b",".join(b'"key%d":1' % i for i in range(50)) + b"}",
            "a 1 MB key": b'{"features":[1,2,3,4],"' + b"k" * _MIB + b'":1}',
            "an unknown key with a 1 MB value": b'{"features":[1,2,3,4],"colour":"' + b"v" * _MIB + b'"}',
            "an empty key": b'{"features":[1,2,3,4],"":1}',
            "a key of other methods": b'{"features":[1,2,3,4],"__class__":1}',
        }.items()
    ),
    _invalid("a key in upper case", b'{"FEATURES":[1,2,3,4]}', "features"),
    _invalid(
        "an unknown key beside the rows",
        b'{"instances":[[1,2,3,4]],"colour":1}',
        path="/predict/batch",
        detail="body: Unknown keys; allowed: instances, scale_factor",
    ),
    _invalid("50,000 unknown keys", b"{" + b",".join(b'"key%d":1' % i for i in range(50_000)) + b"}"),
    # a key twice: the last wins
    _scored("features twice", b'{"features":[0,0,0,0],"features":[1.5,2.25,-0.75,4.0]}', -1.6875),
    _scored("features twice, first wrong", b'{"features":"x","features":[1.5,2.25,-0.75,4.0]}', -1.6875),
    _invalid("features twice, last wrong", b'{"features":[1.5,2.25,-0.75,4.0],"features":"x"}', "features"),
    _scored("a key twice, once escaped", b'{"features":[0,0,0,0],"\\u0066eatures":[1.5,2.25,-0.75,4.0]}', -1.6875),
    # depth
    _json_invalid("100,000 arrays", b"[" * 100_000),
    _json_invalid("100,000 arrays for the features", b'{"features":' + b"[" * 100_000),
    _json_invalid("100,000 arrays, closed", b"[" * 100_000 + b"]" * 100_000),
    _json_invalid("100,000 objects", b'{"a":' * 100_000),
    # encodings
    _json_invalid("a byte order mark", b"\xef\xbb\xbf" + GOOD),
    *(
        _json_invalid(encoding, GOOD.decode().encode(encoding))
        for encoding in ("UTF-16", "UTF-16-LE", "UTF-16-BE", "UTF-32", "UTF-32-BE")
    ),
    *(
        _json_invalid(f"{name} in {place}", body)
        for name, text in {
            "bad UTF-8": b"\xff",
            "overlong UTF-8": b"\xc0\xaf",
            "a surrogate in UTF-8": b"\xed\xa0\x80",
            "a lone surrogate": b"\\ud800",
            "a lone low surrogate": b"\\udc00",
        }.items()
        for place, body in {
            "a value": b'{"features":["' + text + b'",2,3,4]}',
            "a key": b'{"features":[1,2,3,4],"' + text + b'":1}',
            "the value of an unknown key": b'{"features":[1,2,3,4],"colour":"' + text + b'"}',
        }.items()
    ),
    # overflow
    *(
        Case(
            f"{name} overflows",
            "POST",
            "/predict",
            422,
            body,
            code="prediction_not_finite",
            detail="The prediction is infinite or not a number; send features of smaller magnitude",
            loc=("body", "features"),
        )
        for name, body in {
            "a sum": b'{"features":[1.7e308,-1.7e308,1.3e308,0]}',
            "a product": b'{"features":[0,0,1.7e308,0]}',
            "a difference of two infinities": b'{"features":[0,0,1.7e308,-1.7e308],"scale_factor":1.5}',
            "the scaling": b'{"features":[1e300,0,0,0],"scale_factor":1e300}',
        }.items()
    ),
    Case(
        "a row of a batch overflows",
        "POST",
        "/predict/batch",
        422,
        b'{"instances":[[1,1,1,1],[0,0,1.7e308,0],[0,0,1.7e308,0]]}',
        code="prediction_not_finite",
        detail="The prediction for row 1 is infinite or not a number; send features of smaller magnitude",
        loc=("body", "instances", 1),
    ),
    # the double nearest
    _scored("integers", b'{"features":[1,1,1,1],"scale_factor":1}', 1.0),
    _scored("minus zero", b'{"features":[-0.0,0,0,0]}', 0.0),
    _scored("the smallest double", b'{"features":[0,0,0,0],"scale_factor":5e-324}', 0.0),
    _scored("the smallest double, scored", b'{"features":[4e-323,0,0,0]}', 1e-323),
    _scored("2**53+1", b'{"features":[9007199254740993,0,0,0]}', 9007199254740992 / 4),
    _scored("2**64+2**11+1", b'{"features":[18446744073709553665,0,0,0]}', (2**64 + 2**12) / 4),
    _scored("the largest double", b'{"features":[1.7976931348623157e308,0,0,0]}', 1.7976931348623157e308 / 4),
    _scored("smaller than any double", b'{"features":[1e-999,1,1,1]}', 0.75),
    _scored("5,000 digits after the point", b'{"features":[0.' + b"3" * 5000 + b",0,0,0]}", (1 / 3) / 4),
    _scored("blanks, escapes and the other order", b' {\t"scale_factor":2,\r\n"\\u0066eatures":[1,1,1,1]} ', 2.0),
    # scale factors
    *(_scale_factor(f"{text} is too small", text.encode()) for text in ("0", "0.0", "-0.0", "-1", "-5e-324", "1e-999")),
    # rows
    _invalid("zero rows", b'{"instances":[]}', "instances", path="/predict/batch"),
    _invalid("an object for the rows", b'{"instances":{}}', "instances", path="/predict/batch"),
    *(
        _invalid(f"{name} for a row", b'{"instances":[[1,2,3,4],' + text + b"]}", "instances", 1, path="/predict/batch")
        for name, text in {"a number": b"1", "a string": b'"1,2,3,4"', "an object": b'{"0":1}', "true": b"true"}.items()
    ),
    *(
        Case(
            name,
            "POST",
            "/predict/batch",
            400,
            body,
            code="feature_count_mismatch",
            detail=f"expected 4 features in row {row}, got {got}",
            loc=("body", "instances", row),
        )
        for name, body, row, got in (
            ("rows too short", b'{"instances":[[1,2,3],[1,2,3]]}', 0, 3),
            ("rows too long", b'{"instances":[[1,2,3,4,5],[1,2,3,4,5]]}', 0, 5),
            ("rows of unequal width", b'{"instances":[[1,2,3,4],[1,2,3,4,5],[1,2,3]]}', 1, 5),
            ("rows whose widths add up", b'{"instances":[[1,2,3,4],[1,2,3],[1,2,3,4,5]]}', 1, 3),
            ("an empty row", b'{"instances":[[1,2,3,4],[]]}', 1, 0),
        )
    ),
    Case(
        "more rows than the limit",
        "POST",
        "/predict/batch",
        413,
        b'{"instances":[' + b",".join([b"[1]"] * 100_001) + b"]}",
        code="too_many_rows",
        detail="expected at most 100000 rows, got 100001; send them in several requests",
    ),
]

MEDIA_TYPES = [
    _typed("plain", 200, {"content-type": "application/json"}),
    _typed("with its charset", 200, {"content-type": "application/json; charset=utf-8"}),
    _typed("without blanks", 200, {"content-type": "application/json;charset=UTF-8"}),
    _typed("in other cases", 200, {"content-type": 'Application/JSON ; Charset="utf-8"'}),
    _typed("with another name of its charset", 200, {"content-type": "application/json; charset=utf8"}),
    _typed("with other parameters", 200, {"content-type": 'application/json; version=2; charset="UTF8"; q=1'}),
    _typed("the identity as its encoding", 200, {**JSON, "content-encoding": "identity"}),
    _typed("none", 415, {}),
    _typed("an empty one", 415, {"content-type": ""}),
    *(
        _typed(f"{name} as the type", 415, {"content-type": name})
        for name in (
            "text/plain",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/problem+json",
            "application/jsonl",
            "text/json",
            "application/json, application/json",
            "application/json; charset=utf-16",
            "application/json; charset=latin-1",
            "application/json; version=2; charset=utf-16",
            "*/*",
        )
    ),
    *(
        _typed(f"{name} as the encoding", 415, {**JSON, "content-encoding": name})
        for name in ("gzip", "br", "deflate", "zstd", "gzip, identity", "nonsense")
    ),
]

PATHS = [
    *(
        _not_found(f"nothing at {path}", path)
        for path in (
            "/nothing",
            "/predict/",
            "/predict/batch/",
            "/health/",
            "/docs/",
            "/PREDICT",
            "/docs/assets/",
            "/docs/assets/nothing",
            "/docs/assets/%00",
            "/docs/assets/%ff",
            "/docs/assets/..%2f..%2fpyproject.toml",
            "/docs/assets/%2e%2e%2fswagger-ui.css",
            "/docs/assets/swagger-ui.css%00",
            "/docs/assets/swagger-ui.css/",
            "/docs/assets/%E2%98%83",
            "/docs/assets/" + "n" * 4_000,
            "/redoc",
            "/openapi.yaml",
        )
    ),
    _not_found("nothing at /nothing to POST to", "/nothing", "POST"),
    _not_found("a slash within a part of a path", "/predict%2Fbatch", "POST"),
    _not_found("a slash within a part of a path, in lower case", "/docs%2fassets/favicon.png"),
    *(
        _wrong_method(method, path, "POST")
        for path in ("/predict", "/predict/batch")
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    ),
    *(
        _wrong_method(method, path, "GET, HEAD")
        for path in ("/", "/health", "/livez", "/readyz", "/openapi.json", "/docs", "/docs/assets/favicon.png")
        for method in ("POST", "DELETE", "OPTIONS")
    ),
]

TIMEOUTS = [
    *(
        _typed(f"a timeout of {value} ms", 200, {**JSON, "x-request-timeout-ms": value})
        for value in ("9999", "000009999", "999999999")
    ),
    *(
        Case(
            f"a timeout of {value!r}",
            "POST",
            "/predict",
            400,
            GOOD,
            {**JSON, "x-request-timeout-ms": value},
            code="bad_request",
            detail="X-Request-Timeout-Ms must be a positive integer of at most 9 digits",
        )
        for value in ("", "0", "000", "-1", "+1", "1.5", "1e3", "0x10", "1_000", "9999, 9999", "1000000000", "9999 ms")
    ),
]

_NO_MODEL = "No such model; GET /models lists them"
_NO_VERSION = "version_not_found"
_IN_A_VECTOR = [(name, b'{"features":[1,' + literal + b",3,4]}") for name, literal in NUMBERS_THAT_ARE_NONE.items()]
_DEFAULT = "/models/default/predict"
_EMBEDDED = "/models/default/versions/embedded/predict"
_ABOUT = {"status": "success", "model": "default", "version": "embedded"}

MODELS = [
    *(
        Case(f"{name} for {path}", "POST", path, 200, body, answer=answer)
        for path in (_DEFAULT, _EMBEDDED, "/models/%64efault/predict")
        for name, body, answer in (
            ("a row", GOOD, {"prediction": -1.6875, **_ABOUT}),
            ("an array of one row", b"[" + GOOD + b"]", {"predictions": [-1.6875], **_ABOUT}),
            ("rows", b" [" + GOOD + b', {"features":[-0.0,4,0,0]}]', {"predictions": [-1.6875, -2.0], **_ABOUT}),
        )
    ),
    *(_invalid(f"{name} in the row of a model", body, "features", 1, path=_DEFAULT) for name, body in _IN_A_VECTOR),
    *(
        _invalid(f"{name} in a row of a model", b"[" + GOOD + b"," + body + b"]", 1, "features", 1, path=_DEFAULT)
        for name, body in _IN_A_VECTOR
    ),
    _invalid("no rows for a model", b"[]", path=_DEFAULT),
    _invalid("null for a model", b"null", path=_DEFAULT),
    _invalid("a row that is none for a model", b"[" + GOOD + b",[1,2,3,4]]", 1, path=_DEFAULT),
    _invalid(
        "an unknown key for a model",
        b'{"features":[1,2,3,4],"scale_factor":1}',
        path=_DEFAULT,
        detail="body: Unknown keys; allowed: features",
    ),
    *(
        Case(name, "POST", _DEFAULT, 422, body, code="json_invalid", loc=("body",))
        for name, body in {
            "a byte order mark for a model": b"\xef\xbb\xbf" + GOOD,
            "100,000 arrays for a model": b"[" * 100_000,
            "nothing for a model": b"",
        }.items()
    ),
    *(
        Case(name, "POST", path, 400, body, code="feature_count_mismatch", detail=detail, loc=("body", *loc))
        for path in (_DEFAULT, _EMBEDDED)
        for name, body, detail, loc in (
            ("3 features for a model", b'{"features":[1,2,3]}', "expected 4 features, got 3", ("features",)),
            (
                "rows of unequal width for a model",
                b"[" + GOOD + b',{"features":[1,2,3]}]',
                "expected 4 features in row 1, got 3",
                (1, "features"),
            ),
        )
    ),
    Case(
        "a row that overflows in a model",
        "POST",
        _DEFAULT,
        422,
        b"[" + GOOD + b',{"features":[0,0,1.7e308,0]}]',
        code="prediction_not_finite",
        loc=("body", 1),
    ),
    *(
        Case(f"POST {path}", "POST", path, 404, GOOD, code="model_not_found", detail=_NO_MODEL)
        for name in ("nothing", "DEFAULT", "%00", "default%00", "%ff", "..%2f", "%E2%98%83", "n" * 4_000)
        for path in (f"/models/{name}/predict", f"/models/{name}/versions/embedded/predict")
    ),
    *(
        Case(f"GET {path}", "GET", path, 404, headers={}, code="model_not_found", detail=_NO_MODEL)
        for path in ("/models/", "/models/nothing", "/models/%00", "/models/..%2f..%2fetc", "/models/nothing/else")
    ),
    Case(
        "more rows for a model than the limit",
        "POST",
        _DEFAULT,
        413,
        b"[" + b",".join([b'{"features":[1,2,3,4]}'] * 100_001) + b"]",
        code="too_many_rows",
        detail="expected at most 100000 rows, got 100001; send them in several requests",
    ),
    _not_found("nothing of a model", "/models/default/nothing"),
    *(
        Case(f"version {version}", "POST", f"/models/default/versions/{version}/predict", 404, GOOD, code=_NO_VERSION)
        for version in ("1", "Embedded", "%00", "%ff", "n" * 4_000)
    ),
    *(_wrong_method(method, path, "POST") for path in (_DEFAULT, _EMBEDDED) for method in ("GET", "HEAD", "PUT")),
    *(
        _wrong_method(method, path, "GET, HEAD")
        for path in ("/models", "/models/default")
        for method in ("POST", "PUT")
    ),
]

CASES = [*CONTRACT, *JSON_BODIES, *MEDIA_TYPES, *PATHS, *TIMEOUTS, *MODELS]
ONE_OF_EACH = [
    *{(case.path if case.status != 404 else None, case.status, case.code): case for case in reversed(CASES)}.values()
]
PATHS_TO_GET = ("/", "/health", "/livez", "/readyz", "/models", "/openapi.json", "/docs", "/docs/assets/favicon.png")
