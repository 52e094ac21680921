import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import weighbridge
from tests.integration.churn import write_models
from tests.unit.server.administered import Admin, FakeFleet, administered
from weighbridge import __version__
from weighbridge.application.catalogue import ModelEntry, VersionEntry, VersionState
from weighbridge.domain.errors import ModelRefused
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
        ("0 0 1.7e308 0", "expected a finite prediction, got an overflow; send features of smaller magnitude"),
        ("nan 0 0 0", "features.0: Input should be a finite number"),
        ("0 -inf 0 0", "features.1: Input should be a finite number"),
        ("1 2 3 four", "'four' is not a valid float"),
        ("1 2 3 --colour", "'--colour' is not a valid float"),
        ("1 2 3 4 --scale-factor 0", "scale_factor: Input should be greater than 0"),
        ("1 2 3 4 --scale-factor -1", "scale_factor: Input should be greater than 0"),
        ("1 2 3 4 --scale-factor inf", "scale_factor: Input should be a finite number"),
        ("1 2 3 4 --scale-factor two", "'--scale-factor': 'two' is not a valid float"),
        ("", "Missing argument 'FEATURES...'"),
    ],
)
def test_a_row_that_cannot_be_scored_is_a_wrong_call(arguments: str, why: str) -> None:
    result = run("predict", *arguments.split())

    assert result.exit_code == 2
    assert result.stdout == ""
    assert why in result.stderr


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
        ("rollout.toml", 'live = "2"', "models/m/rollout.toml: expected a version that is there, got 2"),
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
        "m: 2 is live, before it 1; its directory cannot be written, so this holds until the next restart\n",
    )
    assert admin.operator.asked == [asked]


def test_the_models_are_a_table(admin: Admin) -> None:
    versions = (VersionEntry("1", VersionState.REFUSED, "it is broken"), VersionEntry("2", VersionState.LIVE))
    admin.operator.catalogue = Catalogue({}, {"m": ModelEntry("m", "2", None, versions, "10 is not there")})

    assert run("models", "list").output.splitlines() == [
        "MODEL  VERSION  STATE    REASON",
        "m      1        refused  it is broken",
        "m      2        live",
        "m                        10 is not there",
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
    assert result.stderr.startswith(f"weighbridge: expected the admin listener of a service at {url}, got ")


@pytest.mark.parametrize("url", ["localhost:9000", "https://localhost", "http://", "http://h/models", "http://h:x"])
def test_a_url_that_is_none_is_a_wrong_call(url: str) -> None:
    result = run("models", "list", "--url", url)

    assert result.exit_code == 2
    assert "--url: expected http://, a host and a port, got another" in result.stderr


def test_without_an_admin_listener_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_PORT", "off")
    result = run("models", "list")

    assert result.exit_code == 2
    assert "expected WEIGHBRIDGE_ADMIN_PORT to be the port of the service, got off; --url names it" in result.stderr


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
    assert result.stderr == (
        f"weighbridge: --port: expected a port that can be listened on, got {port}: Address already in use\n"
    )


def test_serve_names_the_tls_files_that_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_TLS_CERT", "no.pem")

    result = run("serve", "--port", "0")

    assert result.exit_code == 3
    assert result.stderr.startswith("weighbridge: WEIGHBRIDGE_TLS_CERT: expected PEM files of a certificate")
    assert result.stderr.endswith("got 'no.pem': No such file or directory\n")


def test_serve_names_a_host_that_is_none_of_this_machine() -> None:
    result = run("serve", "--host", "192.0.2.1", "--port", "0")

    assert result.exit_code == 3
    assert result.stderr == (
        "weighbridge: --host: expected an address of this machine, got '192.0.2.1': Cannot assign requested address\n"
    )


def test_serve_names_a_host_that_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOST", "a..b")

    assert run("serve", "--port", "0").stderr == (
        "weighbridge: WEIGHBRIDGE_HOST: expected an address of this machine, got 'a..b': not a host name\n"
    )


def test_serve_names_the_variable_of_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("WEIGHBRIDGE_PORT", str(taken.getsockname()[1]))

        assert run("serve").stderr.startswith("weighbridge: WEIGHBRIDGE_PORT: expected a port that can be listened on")
