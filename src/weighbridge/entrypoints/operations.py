"""`weighbridge models`: operations on the models of a service that runs, by way of its admin listener."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from weighbridge.settings import Settings

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,4}|:[1-6]\d{4})?")
_SUCCESS = 200


class Failed(Exception):
    """The service did not do what it was asked for, or was not reached; the message is the reason."""


class Service:
    """A service that runs: the one whose admin listener is at `url`, or that of the settings.

    Raises ValueError when there is none to be asked.
    """

    def __init__(self, url: str | None, settings: Settings) -> None:
        if url is None and not isinstance(settings.admin_port, int):
            raise ValueError("WEIGHBRIDGE_ADMIN_PORT is off; give the address of the admin listener by --url")
        parts = urlsplit(url or f"http://{_bracketed(settings.admin_host)}:{settings.admin_port}")
        if parts.scheme != "http" or not _ADDRESS.fullmatch(parts.netloc) or parts.path not in {"", "/"}:
            raise ValueError("--url: expected http://HOST:PORT")
        self._host, self._port = parts.hostname or "", parts.port or 80
        secret = settings.admin_token
        self._headers = {} if secret is None else {"Authorization": f"Bearer {secret.get_secret_value()}"}

    def models(self) -> list[dict[str, Any]]:
        """All models with their versions. Raises Failed."""
        models: list[dict[str, Any]] = self._ask("GET", "/models")
        return models

    def activate(self, name: str, version: str) -> str:
        """Make a version live; what came of it. Raises Failed."""
        return _told(self._ask("POST", f"/models/{_segment(name)}/versions/{_segment(version)}/activate"))

    def rollback(self, name: str) -> str:
        """Make live what was so before; what came of it. Raises Failed."""
        return _told(self._ask("POST", f"/models/{_segment(name)}/rollback"))

    def reload(self, name: str) -> str:
        """Make live what the directory says; what came of it. Raises Failed."""
        return _told(self._ask("POST", f"/models/{_segment(name)}/reload"))

    def _ask(self, method: str, path: str) -> Any:
        from http.client import HTTPConnection, HTTPException

        connection = HTTPConnection(self._host, self._port)
        try:
            connection.request(method, path, headers=self._headers)
            response = connection.getresponse()
            reply = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as exc:
            where = f"http://{_bracketed(self._host)}:{self._port}"
            raise Failed(f"no admin listener answers at {where}: {exc or type(exc).__name__}") from exc
        finally:
            connection.close()
        if response.status != _SUCCESS:
            raise Failed(reply["detail"])
        return reply


def table(models: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table of models."""
    rows = [("MODEL", "VERSION", "STATE", "REASON")]
    for model in models:
        cells = [(entry["version"], entry["state"], entry["reason"] or "") for entry in model["versions"]]
        if model["reason"] is not None:
            cells.append(("", "", model["reason"]))
        rows += [(model["name"], *row) for row in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _told(outcome: dict[str, Any]) -> str:
    before = "" if outcome["previous"] is None else f" (before: {outcome['previous']})"
    until = "" if outcome["persisted"] else "; rollout.toml cannot be written, so this lasts until the next restart"
    return f"{outcome['model']}: version {outcome['live']} is live{before}{until}"


def _segment(name: str) -> str:
    return quote(name, safe="")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
