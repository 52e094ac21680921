"""The libraries that trained models come from: each imported only when a model needs it."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from weighbridge.adapters.artefact import Artefact
from weighbridge.adapters.manifest import Manifest, RuntimeName
from weighbridge.application.ports import Model
from weighbridge.domain.errors import ModelRefused
from weighbridge.domain.signature import Column


@dataclass(frozen=True, slots=True)
class Trust:
    """What the operator allows: types and code beyond data-only formats, and with how many threads to compute."""

    types: tuple[str, ...] = ()
    python: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """A fitted model in a data-only format.

    `outputs` are named and typed as the manifest will state them. `libraries` are versions by the name of the package.
    """

    artefact: bytes
    file: str
    outputs: tuple[Column, ...]
    libraries: dict[str, str]


class Runtime(Protocol):
    """What the module of a runtime offers."""

    def takes(self, model: object) -> bool:
        """Whether a fitted model is of this runtime; told by the name of its type's module, without an import."""
        ...

    def pack(self, model: Any, inputs: tuple[Column, ...]) -> Packed:
        """A fitted model as an artefact that `load` takes. Raises ModelRefused for one that cannot be told as data."""
        ...

    def load(self, artefact: Artefact, manifest: Manifest, trust: Trust) -> Model:
        """The model in an artefact whose digest is checked. Raises ModelRefused, or whatever its library does."""
        ...


_MODULES: dict[RuntimeName, str] = {
    "linear": "linear",
    "onnx": "onnx",
    "sklearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "python": "python",
}


def runtime(name: RuntimeName) -> Runtime:
    """The runtime of this name. Raises ModelRefused, with the command that installs it, when it is not installed."""
    try:
        module: Any = import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as exc:
        install = f"pip install 'weighbridge[{name}]'"
        raise ModelRefused(f"the runtime {name} needs the package {exc.name}; {install}") from exc
    runtime: Runtime = module
    return runtime
