"""Requests that RFC 9112 or the service's limits forbid: each gets one refusal, and its connection ends.

They are sent to the protocol in this process, and one for each kind of refusal to the real service.
"""

from tests.contract import GOOD
from tests.integration.wire import JSON, Reply, Wire, chunked, get, head, post

COMPILED = b"/predict"
ORDINARY = b"/nothing"

Case = tuple[bytes, int, str]
"""The bytes, and the status and code of the refusal."""


def _bad(data: bytes) -> Case:
    return data, 400, "bad_request"


def _length(target: bytes, value: bytes) -> Case:
    return _bad(head(b"POST", target, JSON, b"Content-Length:" + value) + GOOD)


def _coding(target: bytes, value: bytes) -> Case:
    return _bad(head(b"POST", target, JSON, b"Transfer-Encoding:" + value) + b"0\r\n\r\n")


def _chunks(target: bytes, chunks: bytes) -> Case:
    return _bad(chunked(target, chunks=chunks + b"0\r\n\r\n"))


def _version(target: bytes, version: bytes, status: int = 505) -> Case:
    code = "http_version_not_supported" if status == 505 else "bad_request"
    return get(target, version=version), status, code


def _host(target: bytes, host: bytes) -> Case:
    return _bad(head(b"GET", target, host=host))


def _headers(target: bytes, *lines: bytes) -> Case:
    return get(target, *lines), 431, "headers_too_large"


def malformed(target: bytes) -> dict[str, Case]:
    """Every malformed request to `target`."""
    whole = get(target)
    line = b"GET " + target + b" HTTP/1.1\r\n"
    return {
        # framing
        "Content-Length with Transfer-Encoding": _bad(post(target, b"Transfer-Encoding: chunked")),
        "Transfer-Encoding with Content-Length": _bad(
            chunked(target, b"Content-Length: 5", chunks=b"0\r\n\r\n"),
        ),
        "two lengths": _bad(post(target, b"Content-Length: 3")),
        "the same length twice": _bad(post(target, b"Content-Length: %d" % len(GOOD))),
        "a list of lengths": _length(target, b" 33, 33"),
        "an empty length": _length(target, b""),
        "a length with a sign": _length(target, b" +2"),
        "a negative length": _length(target, b" -1"),
        "a length in two words": _length(target, b" 3 3"),
        "a hexadecimal length": _length(target, b" 0x21"),
        "a length with an underscore": _length(target, b" 3_3"),
        "a length of 30 digits": _length(target, b" " + b"9" * 30),
        "a length of 5,000 digits": _length(target, b" " + b"0" * 4999 + b"3"),
        "a coding that is not chunked": _coding(target, b" gzip"),
        "two codings": _coding(target, b" gzip, chunked"),
        "a coding after chunked": _coding(target, b" chunked, gzip"),
        "a coding that ends like chunked": _coding(target, b" xchunked"),
        "a coding behind a vertical tab": _coding(target, b" \x0bchunked"),
        "an empty coding": _coding(target, b""),
        "chunked twice": _coding(target, b" chunked\r\nTransfer-Encoding: chunked"),
        "chunked in HTTP/1.0": _bad(
            head(b"POST", target, JSON, b"Transfer-Encoding: chunked", version=b"1.0") + b"0\r\n\r\n"
        ),
        # chunks
        "a negative chunk": _chunks(target, b"-1\r\na\r\n"),
        "a chunk's size with 0x": _chunks(target, b"0x1\r\na\r\n"),
        "a blank after a chunk's size": _chunks(target, b"1 \r\na\r\n"),
        "a blank before a chunk's size": _chunks(target, b" 1\r\na\r\n"),
        "a chunk without a size": _chunks(target, b"\r\na\r\n"),
        "a chunk's size that is no number": _chunks(target, b"g\r\na\r\n"),
        "a chunk's size beyond 64 bits": _chunks(target, b"fffffffffffffffff\r\na\r\n"),
        "a chunk longer than its size": _chunks(target, b"1\r\nab\r\n"),
        "a chunk shorter than its size": _chunks(target, b"5\r\nab\r\n"),
        "a bare LF after a chunk's size": _chunks(target, b"1\na\r\n"),
        "a bare LF after a chunk": _chunks(target, b"1\r\na\n"),
        "a bare LF in a chunk's extension": _chunks(target, b"1;a\nb\r\na\r\n"),
        "a NUL in a chunk's extension": _chunks(target, b"1;a\0\r\na\r\n"),
        # trailers that would change what has been decided
        "a length in the trailers": _bad(chunked(target, chunks=b"0\r\nContent-Length: 5\r\n\r\n")),
        "a coding in the trailers": _bad(chunked(target, chunks=b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
        "Connection in the trailers": _bad(chunked(target, chunks=b"0\r\nConnection: close\r\n\r\n")),
        "Proxy-Connection in the trailers": _bad(chunked(target, chunks=b"0\r\nProxy-Connection: close\r\n\r\n")),
        # lines
        "bare LFs": _bad(whole.replace(b"\r\n", b"\n")),
        "a bare LF after the request line": _bad(whole.replace(b"\r\n", b"\n", 1)),
        "a bare LF after a header": _bad(get(target, b"Needle: a\nNeedle: b")),
        "a bare LF at the end": _bad(whole[:-2] + b"\n"),
        "a bare CR in a header": _bad(get(target, b"Needle: a\rb")),
        "a header that is folded": _bad(get(target, b"Needle: a\r\n b")),
        "a header that is folded by a tab": _bad(get(target, b"Needle: a\r\n\tb")),
        "a first header that begins with a blank": _bad(line + b" Needle: a\r\nHost: x\r\n\r\n"),
        "a blank before a colon": _bad(get(target, b"Needle : a")),
        "a header without a colon": _bad(get(target, b"Needle")),
        "a header without a name": _bad(get(target, b": needle")),
        "a header whose name is not ASCII": _bad(get(target, b"Needl\xe9: a")),
        "a DEL in a header": _bad(get(target, b"Needle: a\x7fb")),
        "a NUL in a header": _bad(get(target, b"Needle: a\0b")),
        "a NUL in a header's name": _bad(get(target, b"Need\0le: a")),
        "a NUL in the target": _bad(get(target + b"\0needle")),
        "a tab in the target": _bad(get(target + b"\tneedle")),
        "a blank in the target": _bad(get(target + b" needle")),
        "raw UTF-8 in the target": _bad(get(target + "/n\u00e9edle".encode())),
        # hosts
        "no host": _bad(line + b"\r\n"),
        "two hosts": _bad(get(target, b"Host: x")),
        "a host with a blank": _host(target, b"need le"),
        "a host with a slash": _host(target, b"x/needle"),
        "a host with a user": _host(target, b"needle@x"),
        "a host with a port that is no number": _host(target, b"x:needle"),
        "a host with a comma": _host(target, b"x,needle"),
        "a malformed host in HTTP/1.0": _bad(head(b"GET", target, version=b"1.0", host=b"need le")),
        # versions
        "HTTP/2.5": _version(target, b"2.5"),
        "HTTP/2.0": _version(target, b"2.0"),
        "HTTP/1.2": _version(target, b"1.2"),
        "HTTP/9.9": _version(target, b"9.9"),
        "HTTP/0.9": _version(target, b"0.9", 400),
        "HTTP/0.9 without a version": _bad(b"GET " + target + b"\r\n\r\n"),
        "a version of one digit": _version(target, b"3", 400),
        "a version of three digits": _version(target, b"1.10", 400),
        "a version that is no number": _version(target, b"1.x", 400),
        "another protocol": _bad(b"GET " + target + b" HTT/1.1\r\nHost: x\r\n\r\n"),
        "the preface of HTTP/2": _bad(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        # methods and targets
        "an unknown method": _bad(head(b"NEEDLE", target)),
        "a method in lower case": _bad(head(b"get", target)),
        "CONNECT to a host": (head(b"CONNECT", b"needle:443"), 501, "method_not_implemented"),
        "a target without a slash": _bad(get(target[1:])),
        "a target that is only a query": _bad(get(b"?needle")),
        "a target that is only a host": _bad(get(b"http://needle")),
        "a target whose port is no port": _bad(get(b"http://needle:99999999/")),
        "another protocol's first bytes": _bad(bytes.fromhex("16030100f8010000f4030357e9")),
        # expectations and sizes
        "an expectation nobody knows": (get(target, b"Expect: needle"), 417, "expectation_failed"),
        "two expectations": (get(target, b"Expect: 100-continue", b"Expect: needle"), 417, "expectation_failed"),
        "a target over 8 KiB": (get(target.ljust(8193, b"n")), 414, "uri_too_long"),
        "101 headers": _headers(target, *(b"N%d: needle" % n for n in range(100))),
        "20,000 headers": _headers(target, *(b"N%d: needle" % n for n in range(20_000))),
        "a header over 32 KiB": _headers(target, b"Needle: " + b"n" * 32 * 1024),
        "a header of 1 MB": _headers(target, b"Needle: " + b"n" * 1_000_000),
        "a header whose name has 1 MB": _headers(target, b"n" * 1_000_000 + b": needle"),
        "a length of 63 bits": (
            head(b"POST", target, JSON, b"Content-Length: 9223372036854775808"),
            413,
            "body_too_large",
        ),
    }


TO_COMPILED = malformed(COMPILED)
TO_ORDINARY = malformed(ORDINARY)


def check_refusal(reply: Reply, case: Case) -> None:
    _, status, code = case
    assert (reply.status, reply.code) == (status, code)
    assert reply["connection"] == "close"
    assert b"eedle" not in reply.body


def check_end(connection: Wire, case: Case) -> None:
    check_refusal(connection.reply(), case)
    assert connection.rest() == b""
