"""The pages say what the code says."""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python

import weighbridge
from weighbridge.adapters.exposition import Totals
from weighbridge.adapters.http.problems import Problem
from weighbridge.adapters.http.signature_types import SignatureTypes
from weighbridge.adapters.manifest import NAME, VERSION, ColumnSpec, Golden, Manifest, Options, Rollout, RuntimeName
from weighbridge.adapters.metrics import EMBEDDED_LABEL, NO_MODEL, UNROUTED, RequestMetrics
from weighbridge.adapters.model_metrics import model_families
from weighbridge.adapters.process_metrics import (
    SHOWN_SETTINGS,
    SUPERVISOR,
    HostedStatus,
    RunnerStatus,
    WorkerState,
    WorkerStatus,
    process_families,
    runner_families,
)
from weighbridge.adapters.series import BOUNDS, MEMORY_BYTES, OVERFLOW
from weighbridge.application.catalogue import VersionState
from weighbridge.entrypoints.asgi import create_app
from weighbridge.entrypoints.cli import main
from weighbridge.server.supervisor.rollouts import OPERATIONS
from weighbridge.settings import CONFIG_VARIABLE, NO_RIGHTS, Settings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "weighbridge.toml"
MODELS = ROOT / "docs" / "models.md"
PAGES = [page for of in ("*.md", "benchmarks/*.md", "docs/**/*.md", "examples/**/*.md") for page in ROOT.glob(of)]
FIELDS = tuple(Settings.model_fields)
OPTIONAL = tuple(field for field in FIELDS if Settings.model_fields[field].default is None)


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _rows(page: str) -> Iterator[list[str]]:
    """The cells of each row of the page's tables whose first cell is code; such cells without the backticks."""
    for line in (ROOT / page).read_text("utf-8").splitlines():
        if line.startswith("| `"):
            yield [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split("|")]


def _variable(field: str) -> str:
    return f"WEIGHBRIDGE_{field.upper()}"


def _default(field: str) -> str:
    value: Any = Settings.model_fields[field].default
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(to_jsonable_python(value))


def _description(field: str) -> str:
    text = str(Settings.model_fields[field].description)
    return text[0].upper() + text[1:]


def _comment_above(field: str) -> list[str]:
    """The lines of comment right above a setting in the example configuration."""
    above = CONFIG.read_text("utf-8").partition(f"\n{'# ' if field in OPTIONAL else ''}{field} = ")[0]
    return [line.removeprefix("# ") for line in above.rpartition("\n\n")[2].splitlines()]


def _anchors(page: Path) -> set[str]:
    """The headings of a page as a link writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of each link of a page to another one, or to itself."""
    for target in re.findall(r"\]\((?!\w+:)(.+?)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def test_the_example_configuration_gives_exactly_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings.load()

    monkeypatch.setenv("WEIGHBRIDGE_CONFIG", str(CONFIG))

    assert Settings.load() == defaults


def test_the_example_configuration_has_every_setting_in_the_order_of_the_code() -> None:
    uncommented = re.sub(r"^# (?=\w+ = )", "", CONFIG.read_text("utf-8"), flags=re.MULTILINE)

    assert tuple(tomllib.loads(uncommented)) == FIELDS


def test_the_example_configuration_leaves_out_just_what_has_no_default() -> None:
    assert set(FIELDS) - set(tomllib.loads(CONFIG.read_text("utf-8"))) == set(OPTIONAL)


@pytest.mark.parametrize("field", FIELDS)
def test_the_example_configuration_says_what_a_setting_is_and_why_one_would_change_it(field: str) -> None:
    what, *why = _comment_above(field)

    assert what.startswith(_description(field))
    assert why


def test_the_settings_page_has_every_setting_with_its_default_and_its_values() -> None:
    rows = [row[:3] for row in _rows("docs/settings.md")]

    assert rows == [[_variable(field), _default(field), Settings.expectation(field)] for field in FIELDS]


@pytest.mark.parametrize("field", FIELDS)
def test_the_settings_page_says_what_a_setting_is_and_why_one_would_change_it(field: str) -> None:
    [text] = [row[3] for row in _rows("docs/settings.md") if row[0] == _variable(field)]

    assert text.startswith(_description(field))
    assert len(text) > len(_description(field)) + 20


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_a_page_names_no_setting_that_there_is_not(page: Path) -> None:
    known = {CONFIG_VARIABLE, *map(_variable, FIELDS)}
    of_a_wrong_name = {"WEIGHBRIDGE_WEIGTHS", "WEIGHBRIDGE_PROT", "WEIGHBRIDGE_SERVICE_HOST"}

    named = set(re.findall(r"\bWEIGHBRIDGE_[A-Z]\w*", page.read_text("utf-8")))

    assert named <= known | of_a_wrong_name


def test_the_guide_names_the_setting_of_each_limit() -> None:
    guide = (ROOT / "docs/guide.md").read_text("utf-8")
    table = guide.partition("| Limit | Setting |")[2].partition("\n\n")[0]

    limits = {field for field in FIELDS if field.startswith("max_") or field.endswith(("_timeout", "deadline_ms"))}

    assert set(re.findall(r"`([A-Z_]+)`", table)) == {field.upper() for field in limits}


def test_the_readme_gives_settings_with_their_defaults() -> None:
    defaults = {_variable(field): _default(field) for field in FIELDS}

    for variable, default, _ in _rows("README.md"):
        assert default == defaults[variable]


def test_the_errors_page_has_every_code_with_its_status_in_the_order_of_the_code() -> None:
    headings = re.findall(r"^## (\d+) `(\w+)`$", (ROOT / "docs/errors.md").read_text("utf-8"), re.MULTILINE)

    assert headings == [(str(problem.status), problem.code) for problem in Problem]


@pytest.mark.parametrize("problem", Problem, ids=lambda problem: str(problem.code))
def test_the_errors_page_has_title_cause_and_cure_of_a_code(problem: Problem) -> None:
    page = (ROOT / "docs/errors.md").read_text("utf-8")
    section = page.partition(f"`{problem.code}`\n")[2].partition("\n## ")[0]

    title, cause, *_, cure = section.strip().split("\n\n")

    assert title == f"*{problem.title}.*"
    assert cause.startswith("**Cause.** ")
    assert cure.startswith("**Cure.** ")


def _scraped() -> list[Metric]:
    """What Prometheus reads after a request of each outcome, and one of each kind that has a metric of its own."""
    memory = bytearray(MEMORY_BYTES)
    metrics = RequestMetrics(memory)
    for path, model, status in (
        (UNROUTED, NO_MODEL, 404),
        ("/predict", EMBEDDED_LABEL, 200),
        ("/predict", EMBEDDED_LABEL, 500),
    ):
        metrics.route(path, model).observe(status, 0.001)
    metrics.stages("/predict", EMBEDDED_LABEL)
    metrics.queue_wait(EMBEDDED_LABEL)
    metrics.shed("any")
    worker = WorkerStatus(0, None, WorkerState.READY)
    more = [
        *process_families([worker], {"any": 1}, Settings()),
        *model_families(
            {EMBEDDED_LABEL.name: EMBEDDED_LABEL.version},
            {(EMBEDDED_LABEL.name, of, "refused"): 1 for of in OPERATIONS},
        ),
        *runner_families(
            [RunnerStatus(*EMBEDDED_LABEL, 0, os.getpid(), 1, 1, 1.0)],
            [HostedStatus(*EMBEDDED_LABEL, 0, 0, 0, is_available=True)],
        ),
    ]
    return list(text_string_to_metric_families(Totals().exposition([memory], more).decode()))


def _labels() -> list[tuple[str, str, str]]:
    """Name, label and value of all that is scraped."""
    return [
        (sample.name, label, value)
        for family in _scraped()
        for sample in family.samples
        for label, value in sample.labels.items()
    ]


def _metric_rows() -> list[list[str]]:
    return [row for row in _rows("docs/metrics.md") if row[0].startswith("weighbridge_")]


def test_the_metrics_page_has_every_metric_with_its_type_and_labels_in_the_order_of_a_scrape() -> None:
    of_a_histogram = {"le"}
    collected = [
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            {label for sample in family.samples for label in sample.labels} - of_a_histogram,
        )
        for family in _scraped()
    ]

    assert [(name, kind, set(re.findall(r"\w+", labels))) for name, kind, labels, *_ in _metric_rows()] == collected


def test_the_metrics_page_has_unit_and_meaning_of_each_metric() -> None:
    units = ("seconds", "bytes", "requests", "workers", "restarts", "connections", "operations", "calls", "rows")
    others = {"weighbridge_process_open_fds": "descriptors", "weighbridge_runner_crashes_total": "runners"}
    for name, _, _, unit, meaning in _metric_rows():
        expected = next((unit for unit in units if unit in name.split("_")), "none")
        assert unit == others.get(name, expected)
        assert meaning.endswith(".")


def test_the_metrics_page_has_every_label() -> None:
    shown_settings = {label for name, label, _ in _labels() if name == "weighbridge_settings_info"}

    rows = {row[0] for row in _rows("docs/metrics.md") if not row[0].startswith("weighbridge_")}

    assert shown_settings == set(SHOWN_SETTINGS)
    assert rows == {label for _, label, _ in _labels()} - {"le"} - shown_settings


@pytest.mark.parametrize("label", ["outcome", "model", "operation", "stage", "state"])
def test_the_metrics_page_has_every_value_of_a_label_that_has_few(label: str) -> None:
    [values] = [row[1] for row in _rows("docs/metrics.md") if row[0] == label]

    assert set(re.findall(r"`(\w+)`", values)) == {value for _, of, value in _labels() if of == label} - {""}


def test_the_metrics_page_names_what_stands_for_the_others() -> None:
    rows = {row[0]: row[1] for row in _rows("docs/metrics.md")}

    assert f"`{UNROUTED}`" in rows["route"]
    assert f"`{SUPERVISOR}`" in rows["process"]
    assert f"`{EMBEDDED_LABEL.version}`" in rows["version"]
    assert f"`{OVERFLOW}`: " in (ROOT / "docs/metrics.md").read_text("utf-8")


def test_the_metrics_page_has_the_bounds_of_the_buckets() -> None:
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    sentence = page.partition("the label `le`, are ")[2].partition("seconds.")[0]

    assert tuple(map(float, re.findall(r"[\d.]+", sentence))) == BOUNDS


def test_the_metrics_page_asks_only_for_series_that_there_are() -> None:
    series = {sample.name for family in _scraped() for sample in family.samples}
    queries = (ROOT / "docs/metrics.md").read_text("utf-8").partition("```promql")[2]

    assert set(re.findall(r"weighbridge_\w+", queries)) <= series


def _section(heading: str) -> str:
    """A section of the page of models, less those within it."""
    return MODELS.read_text("utf-8").partition(f"# {heading}\n")[2].partition("\n#")[0]


def _shown(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.+?)^```", text, re.MULTILINE | re.DOTALL)


def _first_cells(heading: str) -> list[str]:
    return re.findall(r"^\| `(.+?)` \|", _section(heading), re.MULTILINE)


def _manifests() -> Iterator[tuple[Manifest, list[Any]]]:
    """Each manifest on the page of models, with the requests and replies that follow it."""
    for part in re.split(r"```toml\n(?=title|runtime)", MODELS.read_text("utf-8"))[1:]:
        text = part.partition("```")[0]
        yield Manifest.read(text.encode(), "docs/models.md"), [json.loads(shown) for shown in _shown("json", part)]


def test_every_toml_on_the_page_of_models_is_a_manifest_or_a_rollout() -> None:
    blocks = _shown("toml", MODELS.read_text("utf-8"))
    rollouts = [Rollout.parse(block.encode(), "docs/models.md") for block in blocks if block.startswith("live = ")]

    assert [(rollout.live, rollout.previous) for rollout in rollouts] == [("2", "1")]
    assert len([*_manifests()]) == len(blocks) - len(rollouts)


@pytest.mark.parametrize(
    ("heading", "of"),
    [
        ("`model.toml`", Manifest),
        ("Columns", ColumnSpec),
        ("Golden rows", Golden),
        ("`rollout.toml`", Rollout),
        ("Options", Options),
    ],
)
def test_the_page_of_models_has_every_key_in_the_order_of_the_code(heading: str, of: type[BaseModel]) -> None:
    assert _first_cells(heading) == [key for key in of.model_fields if of is Options or key not in Options.model_fields]


def test_the_page_of_models_has_the_default_of_each_option() -> None:
    none = (None, NO_RIGHTS)
    defaults = {key: field.default for key, field in Options.model_fields.items() if field.default not in none}
    rows = [row for row in _rows("docs/models.md") if row[0] in defaults]

    assert {row[0]: row[1] for row in rows} == {key: json.dumps(default) for key, default in defaults.items()}


def test_the_page_of_models_has_every_type_and_every_state() -> None:
    [types] = [row[1] for row in _rows("docs/models.md") if row[0] == "type"]

    assert set(get_args(ColumnSpec.model_fields["type"].annotation)) == set(re.findall(r"`(\w+)`", types))
    assert _first_cells("The states of a version") == [*VersionState]


def test_the_page_of_models_has_every_runtime_with_the_extra_that_installs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].keys() - {"dev"}
    rows = [row for row in _rows("docs/models.md") if row[0] in get_args(RuntimeName)]

    assert sorted(row[0] for row in rows) == sorted(get_args(RuntimeName))
    assert [row[3] for row in rows] == [f"weighbridge[{row[0]}]" if row[0] in extras else "" for row in rows]


def test_requests_and_replies_on_the_page_of_models_fit_the_manifests_above_them() -> None:
    for manifest, shown in _manifests():
        replies = [one for one in shown if "status" in one]
        types = SignatureTypes(replies[0]["model"], replies[0]["version"], manifest.signature())
        requests = [one for one in shown if one not in replies]
        fitting = [types.rows if isinstance(request, list) else types.row for request in requests]
        fitting += [types.answers if "predictions" in reply else types.answer for reply in replies]
        for one, fits in zip([*requests, *replies], fitting, strict=True):
            TypeAdapter(fits).validate_json(json.dumps(one))


def test_the_page_of_models_shows_names_and_versions_that_there_can_be() -> None:
    page = _section("The directory")
    versions = re.findall(r"`([\d.]+)`", page)

    assert versions
    assert all(map(VERSION.fullmatch, versions))
    assert "1 to 128 letters" in page
    assert NAME.fullmatch("a" * 128)
    assert not NAME.fullmatch("a" * 129)


def test_the_layers_of_the_architecture_are_those_of_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]

    assert [row[0] for row in _rows("docs/architecture.md")] == layers


def _commands(command: click.Command, path: str) -> Iterator[str]:
    """What a user types for each command that does something."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _commands(one, f"{path} {name}")
    else:
        yield path


def test_the_page_of_the_api_has_every_public_name() -> None:
    public = {f"weighbridge.{name}" for name in weighbridge.__all__}

    named = {row[0] for row in _rows("docs/api.md") if row[0].startswith("weighbridge.")}

    assert named == public | {f"{create_app.__module__}.{create_app.__name__}"}


def test_the_page_of_the_api_has_every_command() -> None:
    shown = {row[0] for row in _rows("docs/api.md") if row[0].startswith("weighbridge ")}

    assert shown == {*_commands(main, "weighbridge")}


def test_the_page_of_the_api_has_every_path_with_its_methods() -> None:
    routes = [context.original_route for context in iter_route_contexts(create_app().routes)]
    methods = {route.path: sorted(route.methods or ()) for route in routes if isinstance(route, APIRoute)}
    del methods["/docs/assets/{name}"]  # a part of /docs

    shown = {row[0]: row[1].split(", ") for row in _rows("docs/api.md") if row[0].startswith("/")}

    assert shown == methods


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_link_between_the_pages_resolves(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), f"{_named(page)} links to {target}"
        assert not anchor or anchor in _anchors(target), f"{_named(page)} links to #{anchor} of {_named(target)}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    following = {ROOT / "README.md"}
    while following:
        reached |= following
        following = {target for page in following for target, _ in _links(page) if target.suffix == ".md"} - reached

    assert reached == set(PAGES)
