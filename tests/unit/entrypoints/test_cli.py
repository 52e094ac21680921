import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dependency_injector import providers
from starlette.testclient import TestClient

import weighbridge
from tests.contract import JSON
from tests.integration.churn import write_models
from tests.unit.log import Log
from tests.unit.server.administered import Admin, FakeFleet, administered
from weighbridge import __version__
from weighbridge.adapters.repository import Repository
from weighbridge.adapters.runners.terms import Placed
from weighbridge.application.catalogue import ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelRefused
from weighbridge.entrypoints.asgi import create_app
from weighbridge.entrypoints.cli import main
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.supervisor.listener import listen
from weighbridge.settings import Settings


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, arguments)


# predict


@pytest.mark.parametrize(
    ("arguments", "prediction"),
    [
        ("1.5 2.25 -0.75 4.0", "-1.6875"),
        ("1.5 2.25 -0.75 4.0 --scale-factor 2", "-3.375"),
        ("--scale-factor 2 1.5 2.25 -0.75 4.0", "-3.375"),
        ("--scale-factor=2 -- 1.5 2.25 -0.75 4.0", "-3.375"),
        ("-1 -2 -3 -4", "-3.0"),
        ("-.5 -1e2 +3 4", "53.625"),
        ("0 0 0 0", "0.0"),
        ("5e-324 0 0 0", "0.0"),
    ],
)
def test_a_row_is_scored_without_a_server(arguments: str, prediction: str) -> None:
    result = run("predict", *arguments.split())

    assert (result.exit_code, result.output) == (0, f"{prediction}\n")


def test_a_row_is_scored_with_the_weights_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "[2, -3]")

    assert run("predict", "1", "1").output == "-1.0\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("1 2 3", "expected 4 features, got 3"),
        ("1 2 3 4 5", "expected 4 features, got 5"),
        ("0 0 1.7e308 0", "The prediction is infinite or not a number; send features of smaller magnitude"),
        ("nan 0 0 0", "features.0: Input should be a finite number"),
        ("0 -inf 0 0", "features.1: Input should be a finite number"),
        ("1 2 3 four", "'four' is not a valid float"),
        ("1 2 3 --colour", "No such option '--colour'"),
        ("1 2 3 4 --scale-factor 0", "scale_factor: Input should be greater than 0"),
        ("1 2 3 4 --scale-factor -1", "scale_factor: Input should be greater than 0"),
        ("1 2 3 4 --scale-factor inf", "scale_factor: Input should be a finite number"),
        ("1 2 3 4 --scale-factor two", "'--scale-factor': 'two' is not a valid float"),
        ("", "Missing argument 'FEATURES... | MODEL FILE'"),
        ("churn", "Give one MODEL and one FILE"),
        ("churn a b", "Give one MODEL and one FILE"),
        ("--models models 1 2 3 4", "Give one MODEL and one FILE"),
        ("churn row.json --scale-factor 2", "Give one MODEL and one FILE; --scale-factor is for the embedded model"),
        ("churn nothing.json", "nothing.json: No such file or directory"),
    ],
)
def test_a_row_that_cannot_be_scored_is_a_wrong_call(arguments: str, why: str) -> None:
    result = run("predict", *arguments.split())

    assert result.exit_code == 2
    assert result.stdout == ""
    assert why in result.stderr


def test_without_weights_there_is_nothing_to_score_a_row_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "off")
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", "models")

    result = run("predict", "1", "2")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected one or more weights, got none" in result.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models, of which one can be served, and one is named as a number."""
    directory = tmp_path_factory.mktemp("models")
    for name in ("m", "7"):
        weighbridge.package([2.0, 3.0], directory / name / "1", example=[[1.0, 1.0]])
    (directory / "broken" / "1").mkdir(parents=True)
    return directory


ROWS = {
    "a row": ({"features": [1.0, 2.0]}, 200),
    "an array": ([{"features": [1.0, float(number)]} for number in range(300)], 200),
    "a row that does not fit": ({"features": ["1.0", 2.0]}, 2),
    "a row that is too wide": ([{"features": [1.0, 2.0]}, {"features": [1.0, 2.0, 3.0]}], 2),
    "no JSON": ("x", 2),
    "a score that overflows": ({"features": [1e308, 1e308]}, 2),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_file_gets_what_the_service_answers(models: Path, tmp_path: Path, log: Log, name: str) -> None:
    rows, status = ROWS[name]
    file = tmp_path / "row.json"
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows))

    result = run("predict", "--models", str(models), "m", str(file))

    container = log.container()
    container.repository.override(providers.Object(Repository(models)))
    container.live.override(providers.Object({"m": Placed("1", 256)}))
    with TestClient(create_app(container)) as client:
        reply = client.post("/models/m/predict", content=file.read_bytes(), headers=JSON)
    if status == 200:
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{reply.text}\n", "")
    else:
        problem = reply.json()
        lines = [f"{'.'.join(map(str, wrong['loc']))}: {wrong['message']}" for wrong in problem["errors"]]
        assert (result.exit_code, result.stdout) == (status, "")
        assert result.stderr.splitlines() == [f"weighbridge: {problem['code']}: {line}" for line in lines]


def test_a_file_may_be_standard_input_and_the_directory_one_of_the_settings(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", str(models))

    result = CliRunner().invoke(main, ["predict", "m", "-"], input='{"features":[1,2]}')

    assert json.loads(result.stdout)["prediction"] == 8.0


def test_a_model_may_be_named_as_a_number_where_the_directory_is_given(models: Path) -> None:
    result = CliRunner().invoke(main, ["predict", "--models", str(models), "7", "-"], input='{"features":[1,2]}')

    assert json.loads(result.stdout)["model"] == "7"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("nothing", "models/nothing: expected a directory, got nothing"),
        ("broken", "models/broken/1/model.toml: expected a file, got nothing"),
        ("../m", "models: expected the name of a model, got ../m"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(models: Path, model: str, reason: str) -> None:
    result = CliRunner().invoke(main, ["predict", "--models", str(models), model, "-"], input="{}")

    assert (result.exit_code, result.stdout, result.stderr) == (3, "", f"weighbridge: {reason}\n")


def test_a_model_that_fails_is_no_wrong_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", write_models(tmp_path, "1"))
    monkeypatch.setenv("WEIGHBRIDGE_PYTHON_MODELS", "true")

    too_much = {"age": 13, "signup month": "June", "income": None}
    result = CliRunner().invoke(main, ["predict", "churn", "-"], input=json.dumps(too_much))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("weighbridge: inference_failed: ")


# check


def test_check_prints_every_setting_as_the_file_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "8123")

    result = run("check")

    assert result.exit_code == 0
    assert tomllib.loads(result.output) == Settings(port=8123).model_dump(mode="json", exclude_none=True)


def test_check_says_that_the_directory_of_models_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", str(tmp_path / "nothing"))

    result = run("check")

    assert result.exit_code == 3
    assert result.stderr == "weighbridge: models: expected a directory, got nothing\n"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("rollout.toml", 'live = "2"', "models/m/rollout.toml: there is no version 2"),
        ("1/weights.json", '{"weights":[2.0]}', "models/m/1/weights.json: expected the sha256 "),
        ("1/model.toml", "", "models/m/1/model.toml: runtime: Field required"),
    ],
)
def test_check_says_which_live_version_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, text: str, reason: str
) -> None:
    weighbridge.package([1.0], tmp_path / "m" / "1", example=[[1.0]])
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", str(tmp_path))
    assert run("check").exit_code == 0

    (tmp_path / "m" / file).write_text(text)
    result = run("check")

    assert result.exit_code == 3
    assert result.stderr.startswith(f"weighbridge: {reason}")


def test_check_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "x")
    monkeypatch.setenv("WEIGHBRIDGE_MAX_ROWS", "0")

    result = run("check")

    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines() == [
        "weighbridge: WEIGHBRIDGE_PORT: expected an integer from 0 to 65535, got 'x'",
        "weighbridge: WEIGHBRIDGE_MAX_ROWS: expected an integer of at least 1, got '0'",
    ]


# models


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    """The admin listener of the settings."""
    with administered(FakeFleet()) as admin:
        monkeypatch.setenv("WEIGHBRIDGE_ADMIN_PORT", str(admin.address[1]))
        yield admin


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("activate", "m", "2"), ("activate", "m", "2")),
        (("rollback", "m"), ("rollback", "m")),
        (("reload", "a b%2F"), ("reload", "a b%2F")),
    ],
)
def test_an_operation_says_what_came_of_it(admin: Admin, arguments: tuple[str, ...], asked: tuple[str, ...]) -> None:
    result = run("models", *arguments)

    assert (result.exit_code, result.output) == (
        0,
        "m: version 2 is live (before: 1); rollout.toml cannot be written, so this lasts until the next restart\n",
    )
    assert admin.operator.asked == [asked]


def test_the_models_are_a_table(admin: Admin) -> None:
    versions = (VersionEntry("1", VersionState.REFUSED, "it is broken"), VersionEntry("2", VersionState.LIVE))
    entries = {
        "m": ModelEntry("m", "2", None, versions, "10 is not there"),
        "n": ModelEntry("n", "2", None, versions[1:]),
    }
    admin.operator.catalogue = Catalogue({}, entries)

    assert run("models", "list").output.splitlines() == [
        "MODEL  VERSION  STATE    REASON",
        "m      1        refused  it is broken",
        "m      2        live",
        "m                        10 is not there",
        "n      2        live",
    ]
    assert json.loads(run("models", "list", "--json").output)[0]["reason"] == "10 is not there"


def test_an_operation_that_fails_says_why(admin: Admin) -> None:
    admin.operator.failure = ModelRefused("models/m/2: it is broken")

    result = run("models", "activate", "m", "2", "--url", f"http://localhost:{admin.address[1]}")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "weighbridge: models/m/2: it is broken\n"


def test_who_has_a_token_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_TOKEN", 16 * "t")
    with administered(FakeFleet(), 16 * "t") as admin:
        assert run("models", "reload", "m", "--url", f"http://127.0.0.1:{admin.address[1]}").exit_code == 0


def test_a_service_that_is_not_reached_is_named() -> None:
    with listen("::1", 0) as gone:
        url = f"http://[::1]:{gone.getsockname()[1]}"
    result = run("models", "list", "--url", url)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"weighbridge: no admin listener answers at {url}: ")


@pytest.mark.parametrize("url", ["localhost:9000", "https://localhost", "http://", "http://h/models", "http://h:x"])
def test_a_url_that_is_none_is_a_wrong_call(url: str) -> None:
    result = run("models", "list", "--url", url)

    assert result.exit_code == 2
    assert "--url: expected http://HOST:PORT" in result.stderr


def test_without_an_admin_listener_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_PORT", "off")
    result = run("models", "list")

    assert result.exit_code == 2
    assert "WEIGHBRIDGE_ADMIN_PORT is off; give the address of the admin listener by --url" in result.stderr


# openapi, --version, --help


def test_openapi_prints_the_document() -> None:
    result = run("openapi")

    assert result.exit_code == 0
    assert {"/predict", "/models/default/predict"} <= json.loads(result.output)["paths"].keys()


def test_openapi_prints_the_models_that_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", write_models(tmp_path, "1", "2"))

    document = json.loads(run("openapi").output)

    [live] = [path for path in document["paths"] if path.startswith("/models/churn/versions")]
    assert live == "/models/churn/versions/2/predict"
    assert "churn_Row" in document["components"]["schemas"]


def test_openapi_prints_no_embedded_model_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", str(tmp_path))
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "off")

    assert [path for path in json.loads(run("openapi").output)["paths"] if "predict" in path] == []


def test_openapi_says_why_a_model_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_MODELS", str(tmp_path / "nothing"))

    result = run("openapi")

    assert (result.exit_code, result.stderr) == (3, "weighbridge: models: expected a directory, got nothing\n")


def test_the_version_is_told() -> None:
    assert run("--version").output == f"weighbridge, version {__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["predict"], ["check"], ["openapi"], ["models"], ["models", "activate"]]
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command: list[str], flag: str) -> None:
    result = run(*command, flag)

    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


# serve, as far as it does not start


def test_serve_says_which_flag_is_wrong() -> None:
    result = run("serve", "--port", "65536", "--log-format", "xml")

    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "weighbridge: --port: expected an integer from 0 to 65535, got '65536'",
        "weighbridge: --log-format: expected one of auto, json, console, got 'xml'",
    ]


def test_serve_names_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))

    assert result.exit_code == 3
    assert result.stderr == (f"weighbridge: --port: cannot listen on port {port}: Address already in use\n")


def test_serve_names_the_tls_files_that_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_TLS_CERT", "no.pem")

    result = run("serve", "--port", "0")

    assert result.exit_code == 3
    assert result.stderr.startswith("weighbridge: WEIGHBRIDGE_TLS_CERT: cannot read a PEM certificate")
    assert result.stderr.endswith("from 'no.pem': No such file or directory\n")


def test_serve_names_a_host_that_is_none_of_this_machine() -> None:
    result = run("serve", "--host", "192.0.2.1", "--port", "0")

    assert result.exit_code == 3
    assert result.stderr == "weighbridge: --host: cannot listen on '192.0.2.1': Cannot assign requested address\n"


def test_serve_names_a_host_that_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOST", "a..b")

    said = "weighbridge: WEIGHBRIDGE_HOST: cannot listen on 'a..b': not a host name\n"
    assert run("serve", "--port", "0").stderr == said


def test_serve_names_the_variable_of_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("WEIGHBRIDGE_PORT", str(taken.getsockname()[1]))

        assert run("serve").stderr.startswith("weighbridge: WEIGHBRIDGE_PORT: cannot listen on port")
