"""Requests that nobody thought of, sent down both roads."""

import json
from itertools import accumulate

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.wire import cut
from tests.unit.server.wired import Pair

examples = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])

numbers = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 5e-324, 2**53 + 1, 10**400, 1.7e308]),
)
values = st.recursive(
    numbers | st.booleans() | st.none() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=5)
features = rows | st.lists(numbers, min_size=3, max_size=5) | values
documents = st.one_of(
    st.fixed_dictionaries({"features": features}, optional={"scale_factor": numbers | values, "other": values}),
    st.fixed_dictionaries({"instances": st.lists(rows, max_size=4) | values}, optional={"scale_factor": numbers}),
    values,
)
json_bodies = st.builds(
    lambda document, ascii_only, indent: json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    ),
    documents,
    st.booleans(),
    st.none() | st.integers(0, 2),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """JSON of which some bytes are gone, new or other ones."""
    body = draw(json_bodies)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


bodies = json_bodies | mutated() | st.binary(max_size=80)
targets = st.sampled_from(
    [b"/predict", b"/predict/batch", b"/health", b"/livez", b"/readyz", b"/", b"/nothing", b"/predict?x", b"//predict"]
)
methods = st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"PUT", b"OPTIONS", b"DELETE"])
tokens = st.text("abcXYZ019-_.!", min_size=1, max_size=8).map(str.encode)
field_values = st.text([chr(code) for code in range(32, 127)], max_size=20).map(str.encode)
JSON_TYPES = (b"application/json", b"application/json; charset=utf-8", b"APPLICATION/JSON", b"application/octet-stream")
OTHER_TYPES = (b"text/plain", b"application/json;charset=latin-1", b"", b"application/json, application/json")
media_types = st.sampled_from(JSON_TYPES + OTHER_TYPES)
fields = st.one_of(
    st.tuples(st.just(b"Content-Type"), media_types),
    st.tuples(st.just(b"Accept"), media_types | field_values),
    st.tuples(st.sampled_from([b"Content-Encoding", b"X-Request-ID", b"Cookie", b"Range"]), tokens | field_values),
    st.tuples(st.just(b"X-Request-Timeout-Ms"), st.sampled_from([b"9999", b"9999", b"0", b"1e9", b"9999,"])),
    st.tuples(tokens.map(b"X-".__add__), field_values),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that HTTP allows."""
    body = draw(bodies)
    lines = [(b"Host", b"x"), *draw(st.lists(fields, max_size=4))]
    if draw(st.integers(0, 4)):
        lines.append((b"Content-Type", b"application/json"))
    if draw(st.booleans()):
        framed = body
        lines.append((b"Content-Length", b"%d" % len(body)))
    else:
        size = draw(st.integers(1, 40))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        lines.append((b"Transfer-Encoding", b"chunked"))
    head = b"%b %b HTTP/1.1\r\n" % (draw(methods), draw(targets))
    return head + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + framed


@examples
@given(requests())
def test_a_generated_request_is_answered_alike(pair: Pair, request: bytes) -> None:
    pair.check(request)


@examples
@given(st.lists(requests(), min_size=1, max_size=6), st.lists(st.integers(1, 300), max_size=12))
def test_generated_requests_sent_ahead_are_answered_alike_however_they_are_cut(
    pair: Pair, sent: list[bytes], sizes: list[int]
) -> None:
    together = b"".join(sent)

    pair.check(*cut(together, [at for at in accumulate(sizes) if at < len(together)]))


@examples
@given(requests(), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3)), max_size=3))
def test_a_generated_request_that_is_spoilt_is_refused_alike(
    pair: Pair, request: bytes, spoilt: list[tuple[int, int, bytes]]
) -> None:
    for at, gone, come in spoilt:
        request = request[:at] + come + request[at + gone :]

    pair.check(request)
