"""The settings: flat, from flags, `WEIGHBRIDGE_*` and a TOML file, in this order of precedence.

Seconds, unless a name ends in `_ms`. Whatever is unknown or wrong is refused before anything starts.
"""

import difflib
import json
import os
import re
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

PREFIX = "WEIGHBRIDGE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"

_SERVICE_LINKS = tuple(
    # What Kubernetes gives every pod for a Service whose name starts with ours: recognised by name and value alike.
    (re.compile(PREFIX + name), re.compile(value))
    for name, value in (
        (r"(\w+_)?SERVICE_HOST", r"[\w.:-]+"),
        (r"(\w+_)?SERVICE_PORT(_\w+)?", r"\d+"),
        (r"(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?", r"(tcp|udp|sctp)://\S+"),
        (r"(\w+_)?PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)", r"[\w.:-]+"),
    )
)


class InvalidSettings(Exception):
    """Settings that cannot be used: a line for each, with its name, the expected value and the given one."""

    def __init__(self, *problems: str) -> None:
        # A name or a path may hold a line break of its own.
        super().__init__("\n".join(" ".join(problem.splitlines()) for problem in problems))


_OFF = "off"


def _plain(path: str) -> str:
    """An absolute path that leads straight down."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError("expected an absolute path without ..")
    return path


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Rights:
    """Rights beyond computing: reading and writing below absolute paths, and connections to TCP ports."""

    read: tuple[Annotated[str, AfterValidator(_plain)], ...] = ()
    write: tuple[Annotated[str, AfterValidator(_plain)], ...] = ()
    connect: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()

    def beyond(self, granted: "Rights") -> list[str]:
        """The rights of these that are not within the granted ones, in words."""
        lacking = [
            f"{kind} {path}"
            for kind, paths, within in (("read", self.read, granted.read), ("write", self.write, granted.write))
            for path in paths
            if not any(PurePosixPath(path).is_relative_to(above) for above in within)
        ]
        return lacking + [f"connect {port}" for port in self.connect if port not in granted.connect]


NO_RIGHTS = Rights()


def _from_json(value: object) -> object:
    """Flags and environment variables are texts: there arrays and objects are written as JSON."""
    if not isinstance(value, str) or value == _OFF:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise ValueError("expected JSON") from exc


def _sendable(token: SecretStr) -> SecretStr:
    """A token that clients can send in a header."""
    if not re.fullmatch(r"[!-~]+", token.get_secret_value()):
        raise ValueError("expected printable ASCII without spaces")
    return token


class Settings(BaseSettings):
    """Every setting with its default; config/weighbridge.toml says why one would change it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    workers: int = Field(
        1, ge=0, le=1024, description="processes that answer requests; 0 does everything in the one process"
    )
    admin_host: str = Field("127.0.0.1", min_length=1, description="address of the admin listener")
    admin_port: Annotated[int, Field(ge=0, le=65535)] | Literal["off"] = Field(
        9000, description="port of the admin listener; 0 picks a free one, off does without"
    )
    admin_token: Annotated[SecretStr, AfterValidator(_sendable)] | None = Field(
        None,
        min_length=16,
        description="token that the admin listener demands; required on other than loopback addresses",
    )
    weights: Annotated[
        Annotated[tuple[Annotated[float, Field(strict=True, allow_inf_nan=False)], ...], Field(min_length=1)]
        | Literal["off"],
        NoDecode,
        BeforeValidator(_from_json),
    ] = Field(
        (0.25, -0.5, 1.25, 0.0),
        description="weights of the embedded model: a JSON array of one or more finite numbers; off does without it",
    )
    models: str | None = Field(
        None, min_length=1, description="directory of trained models, which are served beside the embedded one"
    )
    models_watch: Literal["events", "poll", "off"] = Field(
        "events", description="how changes in the directory of models are noticed; network file systems need poll"
    )
    load_timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="seconds that a version of a model may take to load"
    )
    load_memory_bytes: int = Field(
        8 * 1024**3,
        ge=1024**2,
        description="most memory of a process that opens and calls a version, in bytes",
    )
    call_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that one call of a model may take; then its runner is replaced",
    )
    trusted_types: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_from_json)] = Field(
        (), description="types that skops files may hold beside scikit-learn's own: a JSON array of dotted names"
    )
    sandbox: Literal["auto", "require", "off"] = Field(
        "auto", description="whether models give up their rights before they are opened"
    )
    grants: Annotated[Rights, NoDecode, BeforeValidator(_from_json)] = Field(
        Rights(),
        description="rights that models whose format is code may be given by their rollout.toml",
    )
    python_models: bool = Field(
        False, description="let manifests name Python classes to import, which can run any code"
    )
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1, description="largest request body, in bytes")
    max_buffered_bytes: int = Field(
        16 * 1024 * 1024, ge=1, description="most bytes that all connections may buffer together, or one body if larger"
    )
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="largest headers of a request, in bytes")
    max_header_fields: int = Field(100, ge=1, description="most headers of a request")
    max_url_bytes: int = Field(8 * 1024, ge=64, description="longest request target, in bytes")
    max_pipelined: int = Field(
        100, ge=1, description="most requests of a connection that wait for their replies; then it is read no further"
    )
    max_in_flight: int = Field(1000, ge=1, description="most requests that the application works on at once")
    max_connections: int = Field(10_000, ge=1, description="most connections at once; more wait to be accepted")
    deadline_ms: int = Field(
        30_000,
        ge=1,
        description="milliseconds for a request; a client may ask for less by X-Request-Timeout-Ms",
    )
    max_wait_ms: int = Field(
        1000, ge=0, description="longest estimated wait, in milliseconds; a request that would wait longer is refused"
    )
    header_timeout: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="seconds within which a request's headers must arrive"
    )
    body_timeout: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds within which a body must arrive, and one more for each 64 KiB announced",
    )
    write_timeout: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds within which a reply must be read, and one more for each 64 KiB",
    )
    keep_alive_timeout: float = Field(
        75.0, gt=0, allow_inf_nan=False, description="seconds that a connection may wait for its next request"
    )
    drain_delay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="seconds between a signal to stop and the end of accepting"
    )
    drain_timeout: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="seconds that requests in hand get before the service stops"
    )
    hang_timeout: float = Field(
        3.0, gt=0, allow_inf_nan=False, description="seconds without a sign of life after which a worker is replaced"
    )
    tls_cert: str | None = Field(None, description="PEM file of the certificate chain; switches TLS on")
    tls_key: str | None = Field(None, description="PEM file of the certificate's private key")
    tls_client_ca: str | None = Field(None, description="PEM file of the authorities whose clients are let in")
    fast_lane: bool = Field(True, description="answer compiled routes inside the server's protocol")
    max_rows: int = Field(100_000, ge=1, description="most rows that one request may score")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level to log")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json is one object a line, console is for people; auto is console on a terminal"
    )
    log_requests: Literal["failed", "all", "none"] = Field(
        "failed", description="which requests are logged; slow ones count as failed"
    )
    slow_request_ms: int = Field(1000, ge=0, description="a request that takes longer is slow")

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read the settings of this process; `flags` win over the environment, and that over the file.

        Raises InvalidSettings.
        """
        file = os.environ.get(CONFIG_VARIABLE)
        in_file = _read_toml(file) if file is not None else {}
        in_environment = _own_variables()
        known = {_variable(field): field for field in cls.model_fields}
        unknown = [
            *_unknown(in_environment, {*known, CONFIG_VARIABLE}),
            *(f"{file}: {problem}" for problem in _unknown(in_file, set(cls.model_fields))),
        ]
        if unknown:
            raise InvalidSettings(*unknown)
        came = {f"{file}: {field}": value for field, value in in_file.items()}
        schemas = cls.model_json_schema()["properties"]
        mistyped = [field for field, value in in_file.items() if not _is_of_type(value, schemas[field])]
        if mistyped:
            raise InvalidSettings(*(_wrong(field, came) for field in mistyped))
        came |= in_environment
        came |= {f"--{field.replace('_', '-')}": value for field, value in flags.items()}
        try:
            settings = cls(**flags)
        except ValidationError as exc:
            wrong = dict.fromkeys(str(error["loc"][0]) for error in exc.errors())
            raise InvalidSettings(*(_wrong(field, came) for field in wrong)) from exc
        if settings.models is None and not settings.has_embedded:
            reason = f"{_OFF} leaves no model to serve; set {_variable('models')} as well"
            raise InvalidSettings(f"{_source('weights', came)}: {reason}")
        return settings

    @property
    def has_embedded(self) -> bool:
        """Whether there is an embedded model."""
        return self.weights != _OFF

    def snapshot(self) -> str:
        """All but the secrets, as a text that `restore` takes in another process."""
        return self.model_dump_json(exclude={"admin_token"})

    @classmethod
    def restore(cls, snapshot: str) -> "Settings":
        """The settings of a snapshot, whatever environment and file say by now."""
        return _Restored(**json.loads(snapshot))

    @classmethod
    def expectation(cls, field: str) -> str:
        """What values a setting takes, in words."""
        return _in_words(cls.model_json_schema()["properties"][field])

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment less Kubernetes' service links, then the file."""
        environment = EnvSettingsSource(settings_cls)
        links = {name.lower() for name in service_links()}
        environment.env_vars = {name: value for name, value in environment.env_vars.items() if name not in links}
        return init_settings, environment, TomlConfigSettingsSource(settings_cls, os.environ.get(CONFIG_VARIABLE))


class _Restored(Settings):
    """Settings that another process has read: these and no others."""

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def service_links() -> list[str]:
    """Names of this process's environment variables that are Kubernetes' service links, not settings."""
    return sorted(
        name
        for name, value in os.environ.items()
        if any(of_name.fullmatch(name) and of_value.fullmatch(value) for of_name, of_value in _SERVICE_LINKS)
    )


def _own_variables() -> dict[str, str]:
    links = service_links()
    own = (name for name in os.environ if name.upper().startswith(PREFIX) and name not in links)
    return {name.upper(): os.environ[name] for name in own}


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _read_toml(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidSettings(f"{CONFIG_VARIABLE}: cannot read the TOML file {file!r}: {reason}") from exc


def _unknown(names: Iterable[str], known: set[str]) -> Iterator[str]:
    bare = {name.removeprefix(PREFIX): name for name in known}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
            hint = f"did you mean {bare[near[0]]}?" if near else "`weighbridge check` lists them all"
            yield f"{name}: unknown setting; {hint}"


def _source(field: str, came: Mapping[str, object]) -> str:
    """The name under which the value of a setting came that counts."""
    names = (f"--{field.replace('_', '-')}", _variable(field))
    source = next((name for name in names if name in came), None)
    return source or next(name for name in came if name.endswith(f": {field}"))


def _wrong(field: str, came: Mapping[str, object]) -> str:
    """The line for a setting whose value is wrong."""
    source = _source(field, came)
    schema = Settings.model_json_schema()["properties"][field]
    secret = any(option.get("format") == "password" for option in schema.get("anyOf", ()))
    given = "" if secret else f", got {reprlib.repr(came[source])}"
    return f"{source}: expected {Settings.expectation(field)}{given}"


def _is_of_type(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value from the file, which unlike a text has a type, is of the setting's."""
    names = {bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, str: {"string"}, list: {"array"}}
    if "$ref" in schema:
        return isinstance(value, dict)
    options = {option.get("type") for option in schema.get("anyOf", [schema]) if option.get("const", value) == value}
    return bool(names.get(type(value), set()) & options)


_OTHERS = {
    "boolean": "true or false",
    "object": "a JSON object of read and write, lists of absolute paths, and connect, a list of TCP ports",
}


def _in_words(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"enum": choices}:
            return "one of " + ", ".join(choices)
        case {"type": "array", "items": items}:
            return f"a JSON array of {'texts' if items['type'] == 'string' else 'one or more finite numbers'}"
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"an integer from {low} to {high}"
        case {"type": "number", "exclusiveMinimum": low}:
            return f"a finite number above {low:g}"
        case {"type": "number", "minimum": low}:
            return f"a finite number of at least {low:g}"
        case {"anyOf": [other, {"const": word}]}:
            return f"{_in_words(other)}, or {word}"
        case {"anyOf": [{"format": "password", "minLength": length}, _]}:
            return f"a text of at least {length} characters of ASCII, without spaces and line breaks"
        case {"type": "integer", "minimum": low}:
            return f"an integer of at least {low}"
        case _:
            return _OTHERS.get("object" if "$ref" in schema else schema.get("type", ""), "a text that is not empty")
