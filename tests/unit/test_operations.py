"""What operators copy works: the snippets of docs/operations.md, and the Dockerfile as far as no engine is needed."""

import configparser
import json
import re
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.server.administered import REPORT, FakeFleet, administered
from tests.waiting import DEADLINE
from weighbridge.server.supervisor.listener import listen
from weighbridge.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")


def blocks(kind: str, *, with_text: str = "") -> list[str]:
    """The code blocks of a kind on the page that hold a text."""
    found = re.findall(rf"^```{kind}\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [block for block in found if with_text in block]


def cells(heading: str, column: int) -> str:
    """A column of the table below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    _, _, *rows = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    return "\n".join(row.split("|")[column] for row in rows)


# The page


def test_the_page_has_every_path_of_the_admin_listener() -> None:
    with administered(FakeFleet()) as admin:
        paths = set(admin.ask("/").json["links"].values())

    shown = dict(re.findall(r"^\| admin \| `(.+?)` \| (.+?) \|$", PAGE, re.MULTILINE))

    assert set(shown) == paths
    assert all(shown.values())


def test_the_page_shows_workers_with_every_key() -> None:
    [block] = blocks("json", with_text='"pid"')
    [shown] = json.loads(block)

    assert list(shown) == list(REPORT.__slots__)


def test_the_page_explains_every_line_that_is_logged() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    call = re.compile(r"""\b_?logger(?:\(\))?\.(?:debug|info|warning|error|log)\(\s*(?:level,\s*)?"(\w+)\"""")
    logged = {event for source in sources for event in call.findall(source)}

    assert {"listening", "request", "request_failed", "log_lines_dropped"} <= logged
    assert logged <= set(re.findall(r"`(\w+)`", cells("Log lines", 0)))


def pod() -> tuple[str, Settings]:
    """The pod of the deployment that the page shows, and its settings."""
    [manifest] = blocks("yaml", with_text="kind: Deployment")
    variables = dict(re.findall(r'{name: (WEIGHBRIDGE_\w+), value: "(.+?)"}', manifest))
    return manifest, Settings.load(**{name.removeprefix(PREFIX).lower(): value for name, value in variables.items()})


def test_a_pod_has_more_time_to_end_than_draining_may_take() -> None:
    manifest, settings = pod()
    [grace] = re.findall(r"terminationGracePeriodSeconds: (\d+)", manifest)

    assert settings.drain_delay > 0
    assert settings.drain_delay + settings.drain_timeout < int(grace)


def test_a_pods_probes_ask_the_port_that_it_names() -> None:
    manifest, settings = pod()

    assert f"{{name: http, containerPort: {settings.port}}}" in manifest
    assert set(re.findall(r"httpGet: {path: (/\w+), port: http}", manifest)) == {"/livez", "/readyz"}


def unit(name: str) -> configparser.SectionProxy:
    """The main section of a unit file that the page shows."""
    [text] = blocks("ini", with_text=f"/weighbridge.{name}\n")
    parser = configparser.ConfigParser(strict=False, interpolation=None)  # Environment= may stand more than once
    parser.read_string(text)
    return parser[name.capitalize()]


def test_systemd_gives_the_service_the_time_that_draining_takes() -> None:
    service = unit("service")
    defaults = Settings()

    assert defaults.drain_delay + defaults.drain_timeout < float(service["TimeoutStopSec"])
    assert service["KillMode"] == "mixed"
    assert {"2", "3"} == set(service["RestartPreventExitStatus"].split())


def test_systemd_listens_where_the_service_would() -> None:
    assert unit("socket")["ListenStream"] == f"{Settings().host}:{Settings().port}"


# The image


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and what follows each, continued lines joined and comments left out."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#")).replace("\\\n", " ")
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in text.splitlines())]


def last(name: str) -> str:
    """What follows the instruction of this name that counts."""
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def test_the_dockerfile_has_only_instructions_that_there_are() -> None:
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}

    assert instructions()[0][0] == "FROM"
    assert {name for name, _ in instructions()} == known


def test_the_image_is_built_on_a_python_that_the_service_runs_on() -> None:
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]

    assert bases == ["python:3.11-slim"] * 2


def test_every_file_that_is_copied_exists_and_is_sent_to_the_engine() -> None:
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]

    assert all((ROOT / source).exists() for source in copied)
    assert set(copied) == set(allowed)


def test_every_package_of_the_image_is_pinned() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install [^&]+", " & ".join(rest for _, rest in instructions()))

    assert len(installs) == 2
    assert all("--constraint requirements.lock" in install for install in installs)


def test_the_libraries_of_models_that_the_page_builds_an_image_with_are_in_the_lock() -> None:
    [packages] = re.findall(r'--build-arg PACKAGES="(.+?)"', PAGE)
    locked = re.findall(r"^(\S+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)

    assert ("ARG", 'PACKAGES=""') in instructions()
    assert set(packages.split()) <= set(locked)


def test_the_image_runs_as_a_user_that_is_seen_not_to_be_root() -> None:
    user, group = map(int, last("USER").split(":"))

    assert min(user, group) > 0


def test_signals_reach_the_service_since_no_shell_is_between() -> None:
    assert json.loads(last("ENTRYPOINT")) + json.loads(last("CMD")) == ["weighbridge", "serve"]


def test_the_settings_of_the_image_are_valid_and_fit_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(re.findall(r"(WEIGHBRIDGE_\w+)=(\S+)", last("ENV")))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()

    assert ip_address(settings.host).is_unspecified
    assert settings.drain_delay > 0
    assert last("EXPOSE") == str(settings.port)


def health(port: int) -> int:
    """The exit code of the image's health check, where the admin listener is said to be on a port."""
    _, _, check = last("HEALTHCHECK").partition(" CMD ")
    python, *arguments = json.loads(check)
    assert python == "python"
    environment = {"WEIGHBRIDGE_ADMIN_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, timeout=DEADLINE, check=False
    )
    return done.returncode


def test_the_image_is_healthy_while_the_admin_listener_answers() -> None:
    with administered(FakeFleet()) as admin:
        assert health(admin.address[1]) == 0


def test_the_image_is_not_healthy_when_nobody_answers() -> None:
    with listen("127.0.0.1", 0) as gone:
        port = gone.getsockname()[1]

    assert health(port) == 1
