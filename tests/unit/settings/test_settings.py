from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.settings import InvalidSettings, Rights, Settings, service_links

FIELDS = sorted(Settings.model_fields)
SERVICE_LINKS = {
    "WEIGHBRIDGE_SERVICE_HOST": "10.96.0.1",
    "WEIGHBRIDGE_SERVICE_PORT": "80",
    "WEIGHBRIDGE_SERVICE_PORT_HTTP": "80",
    "WEIGHBRIDGE_PORT": "tcp://10.96.0.1:80",
    "WEIGHBRIDGE_PORT_80_TCP": "tcp://10.96.0.1:80",
    "WEIGHBRIDGE_PORT_80_TCP_PROTO": "tcp",
    "WEIGHBRIDGE_PORT_80_TCP_PORT": "80",
    "WEIGHBRIDGE_PORT_80_TCP_ADDR": "10.96.0.1",
    "WEIGHBRIDGE_PORT_53_UDP": "udp://[fd00::1]:53",
    "WEIGHBRIDGE_CANARY_SERVICE_HOST": "fd00::1",
    "WEIGHBRIDGE_CANARY_SERVICE_PORT": "8080",
    "WEIGHBRIDGE_CANARY_PORT": "tcp://10.96.0.2:8080",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings' file, for a test to write."""
    path = tmp_path / "weighbridge.toml"
    monkeypatch.setenv("WEIGHBRIDGE_CONFIG", str(path))
    return path


def refusal(**flags: Any) -> str:
    with pytest.raises(InvalidSettings) as caught:
        Settings.load(**flags)
    return str(caught.value)


def test_every_setting_has_a_default() -> None:
    settings = Settings.load()

    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert settings.weights == (0.25, -0.5, 1.25, 0.0)
    assert settings.max_body_bytes == 16 * 1024 * 1024
    assert settings.max_rows == 100_000


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "8123")
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "[1, -2.5e3]")
    monkeypatch.setenv("weighbridge_log_level", "debug")

    settings = Settings.load()

    assert (settings.port, settings.weights, settings.log_level) == (8123, (1.0, -2500.0), "debug")


def test_settings_come_from_a_file(config: Path) -> None:
    config.write_text('port = 8123\nweights = [1, -2.5e3]\nlog_level = "debug"\n', "utf-8")

    settings = Settings.load()

    assert (settings.port, settings.weights, settings.log_level) == (8123, (1.0, -2500.0), "debug")


def test_there_is_no_embedded_model_where_the_weights_are_off(config: Path) -> None:
    config.write_text('weights = "off"\nmodels = "models"\n', "utf-8")

    assert (Settings.load().weights, Settings.load().has_embedded) == ("off", False)
    assert Settings.load(weights="off") == Settings.load()
    assert Settings.restore(Settings.load().snapshot()).model_dump() == Settings.load().model_dump()
    assert Settings.load(weights="[1]").has_embedded


def test_without_models_the_embedded_one_is_needed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "off leaves no model to serve; set WEIGHBRIDGE_MODELS as well"

    config.write_text('weights = "off"', "utf-8")
    assert refusal(weights="off") == f"--weights: {reason}"
    assert refusal() == f"{config}: weights: {reason}"
    monkeypatch.setenv("WEIGHBRIDGE_WEIGHTS", "off")
    assert refusal() == f"WEIGHBRIDGE_WEIGHTS: {reason}"


GRANTED = Rights(read=("/srv/codes",), connect=(5432,))


def test_rights_are_granted_by_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_GRANTS", '{"read": ["/srv/codes"], "connect": [5432]}')

    assert Settings.load().grants == GRANTED


def test_rights_are_granted_by_a_file_as_a_table(config: Path) -> None:
    config.write_text('[grants]\nread = ["/srv/codes"]\nconnect = [5432]\n', "utf-8")

    assert Settings.load().grants == GRANTED


@pytest.mark.parametrize(
    "grants",
    [
        '{"read": ["srv"]}',
        '{"read": ["/srv/../etc"]}',
        '{"reads": []}',
        '{"connect": [0]}',
        '{"write": "/srv"}',
        "[",
        "3",
    ],
)
def test_rights_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, grants: str) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_GRANTS", grants)

    assert refusal().startswith("WEIGHBRIDGE_GRANTS: expected a JSON object of read and write, lists of absolute paths")


def test_rights_in_a_file_are_a_table(config: Path) -> None:
    config.write_text('grants = "/srv"\n', "utf-8")

    assert "expected a JSON object" in refusal()


def test_an_empty_file_leaves_the_defaults(config: Path) -> None:
    config.touch()

    assert Settings.load() == Settings()


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1\nmax_rows = 7\n", "utf-8")
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "2")

    settings = Settings.load()

    assert (settings.port, settings.max_rows) == (2, 7)


def test_flags_win_over_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1\n", "utf-8")
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "2")

    assert Settings.load(port=3).port == 3


@pytest.mark.parametrize("token", ["sixteen-characters\n", "sixteen characters", "sixteen-characters\u00e9", "short"])
def test_a_token_that_no_client_could_send_is_refused_and_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_TOKEN", token)

    expected = "a text of at least 16 characters of ASCII, without spaces and line breaks"
    assert refusal() == f"WEIGHBRIDGE_ADMIN_TOKEN: expected {expected}"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HOST", "", "a text that is not empty, got ''"),
        ("PORT", "http", "an integer from 0 to 65535, got 'http'"),
        ("PORT", "65536", "an integer from 0 to 65535, got '65536'"),
        ("PORT", "-1", "an integer from 0 to 65535, got '-1'"),
        ("PORT", "80.5", "an integer from 0 to 65535, got '80.5'"),
        ("PORT", "", "an integer from 0 to 65535, got ''"),
        ("PORT", "8\n0", r"an integer from 0 to 65535, got '8\n0'"),
        ("PORT", "9" * 1000, "an integer from 0 to 65535, got '999999999999...9999999999999'"),
        ("WEIGHTS", "1.5", "a JSON array of one or more finite numbers, or off, got '1.5'"),
        ("WEIGHTS", "[]", "a JSON array of one or more finite numbers, or off, got '[]'"),
        ("WEIGHTS", "[NaN]", "a JSON array of one or more finite numbers, or off, got '[NaN]'"),
        ("WEIGHTS", "[1e999]", "a JSON array of one or more finite numbers, or off, got '[1e999]'"),
        ("WEIGHTS", "[true]", "a JSON array of one or more finite numbers, or off, got '[true]'"),
        ("WEIGHTS", '["1"]', """a JSON array of one or more finite numbers, or off, got '["1"]'"""),
        ("WEIGHTS", "0.25,-0.5", "a JSON array of one or more finite numbers, or off, got '0.25,-0.5'"),
        ("WEIGHTS", "OFF", "a JSON array of one or more finite numbers, or off, got 'OFF'"),
        (
            "WEIGHTS",
            "[" * 100_000,
            "a JSON array of one or more finite numbers, or off, got '[[[[[[[[[[[[...[[[[[[[[[[[[['",
        ),
        ("MAX_BODY_BYTES", "0", "an integer of at least 1, got '0'"),
        ("MAX_ROWS", "many", "an integer of at least 1, got 'many'"),
        ("LOG_LEVEL", "INFO", "one of debug, info, warning, error, got 'INFO'"),
        ("LOG_FORMAT", "xml", "one of auto, json, console, got 'xml'"),
        ("LOG_REQUESTS", "some", "one of failed, all, none, got 'some'"),
        ("SLOW_REQUEST_MS", "-1", "an integer of at least 0, got '-1'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_what_came(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"WEIGHBRIDGE_{name}", value)

    assert refusal() == f"WEIGHBRIDGE_{name}: expected {expected}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("port = 'http'", "port: expected an integer from 0 to 65535, got 'http'"),
        ("port = 1979-05-27", "port: expected an integer from 0 to 65535, got datetime.date(1979, 5, 27)"),
        ("log_level = 3", "log_level: expected one of debug, info, warning, error, got 3"),
        ("weights = [nan]", "weights: expected a JSON array of one or more finite numbers, or off, got [nan]"),
        ("weights = 1.5", "weights: expected a JSON array of one or more finite numbers, or off, got 1.5"),
        ("weights = '[1.5]'", "weights: expected a JSON array of one or more finite numbers, or off, got '[1.5]'"),
        ("weights = [true]", "weights: expected a JSON array of one or more finite numbers, or off, got [True]"),
        ("weights = []", "weights: expected a JSON array of one or more finite numbers, or off, got []"),
        ("port = true", "port: expected an integer from 0 to 65535, got True"),
        ("port = 80.0", "port: expected an integer from 0 to 65535, got 80.0"),
        ("prot = 1", "prot: unknown setting; did you mean port?"),
        (
            "[server]\nport = 1",
            "server: unknown setting; `weighbridge check` lists them all",
        ),
        (
            '"a\\nb" = 1',
            "a b: unknown setting; `weighbridge check` lists them all",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(line: str, problem: str, config: Path) -> None:
    config.write_text(line, "utf-8")

    assert refusal() == f"{config}: {problem}"


def test_a_wrong_value_is_named_by_where_it_came_from(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1\nmax_rows = 0\n", "utf-8")
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "x")
    monkeypatch.setenv("WEIGHBRIDGE_LOG_LEVEL", "x")

    assert refusal(log_level="y").splitlines() == [
        "WEIGHBRIDGE_PORT: expected an integer from 0 to 65535, got 'x'",
        f"{config}: max_rows: expected an integer of at least 1, got 0",
        "--log-level: expected one of debug, info, warning, error, got 'y'",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WEIGHBRIDGE_PROT", "did you mean WEIGHBRIDGE_PORT?"),
        ("WEIGHBRIDGE_LOGLEVEL", "did you mean WEIGHBRIDGE_LOG_LEVEL?"),
        ("WEIGHBRIDGE_MAX_ROW", "did you mean WEIGHBRIDGE_MAX_ROWS?"),
        ("WEIGHBRIDGE_CONFIGURATION", "did you mean WEIGHBRIDGE_CONFIG?"),
        ("WEIGHBRIDGE_", "`weighbridge check` lists them all"),
        ("WEIGHBRIDGE_QQQ", "`weighbridge check` lists them all"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_valid_one(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")

    assert refusal() == f"{name}: unknown setting; {hint}"


def test_the_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("WEIGHBRIDGES_PORT", "x")

    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"port = ", "Invalid value (at end of document)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"a = " + b"[" * 100_000, "maximum recursion depth exceeded"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(content: bytes | None, reason: str, config: Path) -> None:
    if content is not None:
        config.write_bytes(content)

    assert refusal().startswith(f"WEIGHBRIDGE_CONFIG: cannot read the TOML file '{config}': {reason}")


@given(st.sampled_from(FIELDS), st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60))
def test_any_text_is_a_value_or_refused_in_one_line(field: str, value: str) -> None:
    variable = f"WEIGHBRIDGE_{field.upper()}"
    problems = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(variable, value)
        try:
            Settings.load()
        except InvalidSettings as exc:
            problems = str(exc).splitlines()

    assert len(problems) <= 1
    assert all(problem.startswith(f"{variable}: expected ") for problem in problems)


@pytest.mark.parametrize(("name", "value"), SERVICE_LINKS.items())
def test_a_service_link_of_kubernetes_is_no_setting(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    assert Settings.load() == Settings(port=8000)
    assert service_links() == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEIGHBRIDGE_SERVICE_HOST", "not an address"),
        ("WEIGHBRIDGE_SERVICE_PORT", "http"),
        ("WEIGHBRIDGE_PORT", "http://10.96.0.1:80"),
        ("WEIGHBRIDGE_PORT_80_TCP", "10.96.0.1:80"),
        ("WEIGHBRIDGE_HOSTS", "10.96.0.1"),
    ],
)
def test_what_only_looks_like_a_service_link_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    assert refusal().startswith(f"{name}: ")
    assert service_links() == []


def test_a_file_may_set_what_a_service_link_hides(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 8123\n", "utf-8")
    monkeypatch.setenv("WEIGHBRIDGE_PORT", "tcp://10.96.0.1:80")

    assert Settings.load().port == 8123
