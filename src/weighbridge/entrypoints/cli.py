"""The command `weighbridge`. It exits with 0 on success, 2 for a wrong call, and 3 when the service cannot start.

It exits with 1 when a running service refuses an operation.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from weighbridge import __version__
from weighbridge.entrypoints.operations import Failed, Service, table
from weighbridge.settings import InvalidSettings, Settings

_CANNOT_START = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weighbridge")
def main() -> None:
    """A trained model as a production HTTP service."""


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", help="Port to listen on; 0 picks a free one.")
@click.option("--workers", help="Processes that answer requests; 0 does everything in the one process.")
@click.option("--weights", help="Weights of the embedded model, a JSON array.")
@click.option("--models", help="Directory of trained models, served beside the embedded model.")
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
        _cannot_start(str(exc))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("features", nargs=-1, required=True, type=float)
@click.option("--scale-factor", type=float, default=1.0, show_default=True, help="Factor that multiplies the score.")
def predict(features: tuple[float, ...], scale_factor: float) -> None:
    """Score one row without a server, with the weights of the settings."""
    from pydantic import ValidationError

    from weighbridge.adapters.http.prediction import ModelInput
    from weighbridge.adapters.weights import SettingsWeights
    from weighbridge.application.predict import PredictUseCase
    from weighbridge.domain.errors import WeighbridgeError

    settings = _load()
    use_case = PredictUseCase(SettingsWeights(settings).load(), max_rows=settings.max_rows)
    try:
        row = ModelInput(features=list(features), scale_factor=scale_factor)
        click.echo(use_case(row.features, row.scale_factor))
    except ValidationError as exc:
        [error, *_] = exc.errors()
        raise click.UsageError(f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    except WeighbridgeError as exc:
        raise click.UsageError(str(exc)) from exc


@main.command()
def check() -> None:
    """Check the settings and the models, and print all settings."""
    from weighbridge.adapters import catalogue
    from weighbridge.adapters.repository import Repository
    from weighbridge.domain.errors import ModelRefused

    settings = _load()
    for name, value in settings.model_dump(mode="json").items():
        click.echo(f"# {name} is not set" if value is None else f"{name} = {json.dumps(value)}")
    try:
        catalogue.check(Repository(settings.models, settings.load_memory_bytes).scan())
    except ModelRefused as exc:
        _cannot_start(str(exc))


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
    parts = [describe_model(*EMBEDDED_LABEL, container.embedded().signature)]
    try:
        for name, version in catalogue.wanted(repository.scan()).items():
            signature = repository.manifest(name, version).signature()
            golden = catalogue.golden_row(repository, name, version)
            parts.append(describe_model(name, version, signature, golden))
    except ModelRefused as exc:
        _cannot_start(str(exc))
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
        click.echo(f"weighbridge: {exc}", err=True)
        sys.exit(1)


def _load(**flags: Any) -> Settings:
    try:
        return Settings.load(**flags)
    except InvalidSettings as exc:
        _cannot_start(str(exc))


def _cannot_start(why: str) -> NoReturn:
    for line in why.splitlines():
        click.echo(f"weighbridge: {line}", err=True)
    sys.exit(_CANNOT_START)
