"""The command `weighbridge`. It exits with 0 on success, 2 for a wrong call, and 3 when the service cannot start.

1 when a service that runs, or a model, was asked for something and did not do it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NoReturn

import click

from weighbridge import __version__
from weighbridge.entrypoints.operations import Failed, Service, table
from weighbridge.settings import InvalidSettings, Settings

_FAILED = 1
_WRONG_CALL = 2
_CANNOT_START = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weighbridge")
def main() -> None:
    """A trained model as a production HTTP service."""


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", help="Port to listen on; 0 picks a free one.")
@click.option("--workers", help="Processes that answer requests; 0 does everything in the one process.")
@click.option("--weights", help="Weights of the embedded model, a JSON array; off does without it.")
@click.option("--models", help="Directory of trained models, to be served beside the embedded one.")
@click.option("--log-level", help="Least severe level to log: debug, info, warning or error.")
@click.option("--log-format", help="json, console, or auto: console on a terminal.")
@click.option("--log-requests", help="Which requests to log: failed (and slow) ones, all or none.")
def serve(**flags: Any) -> None:
    """Serve models over HTTP until SIGTERM or SIGINT.

    A flag takes precedence over its environment variable, such as WEIGHBRIDGE_PORT, and the variable over the file
    that WEIGHBRIDGE_CONFIG names.
    """
    from weighbridge.entrypoints.serve import serve
    from weighbridge.server.supervisor.rollouts import CannotStart

    try:
        serve({name: value for name, value in flags.items() if value is not None})
    except (InvalidSettings, CannotStart) as exc:
        _end(_CANNOT_START, *str(exc).splitlines())


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True, metavar="FEATURES... | MODEL FILE")
@click.option("--models", help="Directory of trained models.")
@click.option("--scale-factor", type=float, help="What the score of FEATURES is multiplied by; 1.0 by default.")
def predict(arguments: tuple[str, ...], models: str | None, scale_factor: float | None) -> None:
    """Predict without a server.

    FEATURES are one row for the embedded model. MODEL is a model of the directory, and FILE has a row or an array of
    rows for it, as JSON; - is standard input.

    The first argument is a MODEL if --models is given, or if it is no number.
    """
    for argument in arguments:
        if argument[:1] == "-" and argument != "-" and not _is_number(argument):
            raise click.NoSuchOption(argument)
    if models is None and _is_number(arguments[0]):
        _predict_row(list(map(click.FLOAT, arguments)), 1.0 if scale_factor is None else scale_factor)
        return
    match arguments:
        case (name, file) if scale_factor is None:
            _predict_file(name, file, _load() if models is None else _load(models=models))
        case _:
            raise click.UsageError("Give one MODEL and one FILE; --scale-factor is for the embedded model")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _predict_row(features: list[float], scale_factor: float) -> None:
    from pydantic import ValidationError

    from weighbridge.adapters.http.prediction import ModelInput
    from weighbridge.adapters.weights import SettingsWeights
    from weighbridge.application.predict import PredictUseCase
    from weighbridge.domain.errors import WeighbridgeError

    settings = _load()
    try:
        use_case = PredictUseCase(SettingsWeights(settings).load(), max_rows=settings.max_rows)
        row = ModelInput(features=features, scale_factor=scale_factor)
        click.echo(use_case(row.features, row.scale_factor))
    except ValidationError as exc:
        [error, *_] = exc.errors()
        raise click.UsageError(f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    except WeighbridgeError as exc:
        raise click.UsageError(str(exc)) from exc


def _predict_file(name: str, file: str, settings: Settings) -> None:
    from weighbridge.domain.errors import ModelRefused
    from weighbridge.entrypoints.prediction import predict

    try:
        with click.open_file(file, "rb") as opened:
            body = opened.read()
    except OSError as exc:
        raise click.UsageError(f"{file}: {exc.strerror}") from exc
    try:
        status, _, reply = predict(settings, name, body)
    except ModelRefused as exc:
        _end(_CANNOT_START, str(exc))
    if status >= HTTPStatus.BAD_REQUEST:
        problem = json.loads(reply)
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['message']}" for item in problem.get("errors", ())]
        code = _FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _WRONG_CALL
        _end(code, *(f"{problem['code']}: {line}" for line in wrong or [problem["detail"]]))
    click.echo(reply)


@main.command()
def check() -> None:
    """Check the settings and the models, and print all settings."""
    from weighbridge.adapters import catalogue
    from weighbridge.adapters.repository import Repository
    from weighbridge.adapters.system.sandbox import Sandbox
    from weighbridge.domain.errors import ModelRefused

    settings = _load()
    for name, value in settings.model_dump(mode="json").items():
        click.echo(f"# {name} is not set" if value is None else f"{name} = {_in_toml(value)}")
    click.echo(f"# sandbox: {Sandbox.offered().words}")
    try:
        catalogue.check(Repository(settings.models, settings.load_memory_bytes).scan())
    except ModelRefused as exc:
        _end(_CANNOT_START, *str(exc).splitlines())


def _in_toml(value: Any) -> str:
    """A value as a line of the settings' file has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_in_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


@main.command()
def openapi() -> None:
    """Print the OpenAPI document, with the models that `serve` would serve; none is loaded for it."""
    from weighbridge.adapters import catalogue
    from weighbridge.adapters.http.model_description import describe_model
    from weighbridge.adapters.http.openapi import describe
    from weighbridge.adapters.metrics import EMBEDDED_LABEL
    from weighbridge.container import Container
    from weighbridge.domain.errors import ModelRefused
    from weighbridge.entrypoints.asgi import create_app

    container = Container(settings=_load())
    repository = container.repository()
    parts = []
    if container.settings().has_embedded:
        parts.append(describe_model(*EMBEDDED_LABEL, container.embedded().signature))
    try:
        for name, version in catalogue.wanted(repository.scan()).items():
            manifest = repository.manifest(name, version)
            parts.append(describe_model(name, version, manifest.signature(), manifest))
    except ModelRefused as exc:
        _end(_CANNOT_START, *str(exc).splitlines())
    click.echo(json.dumps(describe(create_app(container), parts), indent=2))


@main.group()
def models() -> None:
    """Operate on the models of a running service, through its admin listener."""


_of_service = click.option("--url", help="Admin listener, http://HOST:PORT; by default that of the settings.")


@models.command("list")
@_of_service
@click.option("--json", "as_json", is_flag=True, help="Print the reply of the service as JSON.")
def list_models(url: str | None, *, as_json: bool) -> None:
    """Print all models with their versions."""
    with _service(url) as service:
        found = service.models()
    for line in [json.dumps(found, indent=2)] if as_json else table(found):
        click.echo(line)


@models.command()
@click.argument("name")
@click.argument("version")
@_of_service
def activate(name: str, version: str, url: str | None) -> None:
    """Make a version of a model live."""
    with _service(url) as service:
        click.echo(service.activate(name, version))


@models.command()
@click.argument("name")
@_of_service
def rollback(name: str, url: str | None) -> None:
    """Make the previous version of a model live again."""
    with _service(url) as service:
        click.echo(service.rollback(name))


@models.command()
@click.argument("name")
@_of_service
def reload(name: str, url: str | None) -> None:
    """Read the directory of a model again; if its live version has changed, open it anew."""
    with _service(url) as service:
        click.echo(service.reload(name))


@contextmanager
def _service(url: str | None) -> Iterator[Service]:
    try:
        yield Service(url, _load())
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    except Failed as exc:
        _end(_FAILED, str(exc))


def _load(**flags: Any) -> Settings:
    try:
        return Settings.load(**flags)
    except InvalidSettings as exc:
        _end(_CANNOT_START, *str(exc).splitlines())


def _end(code: int, *lines: str) -> NoReturn:
    for line in lines:
        click.echo(f"weighbridge: {line}", err=True)
    sys.exit(code)
