import subprocess
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.integration.pages import ROOT


def installed_by(package: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Names of all the packages that installing this one brings, itself included."""
    found = {package: set[str]()}
    waiting = [(package, extras)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in map(Requirement, requires(name) or []):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            needed = canonicalize_name(requirement.name)
            if needed not in found or requirement.extras - found[needed]:
                found.setdefault(needed, set()).update(requirement.extras)
                waiting.append((needed, frozenset(requirement.extras)))
    return set(found)


def test_make_run_installs_no_more_than_a_users_install() -> None:
    ran = subprocess.run(["make", "-nB", "run"], cwd=ROOT, capture_output=True, text=True, check=True)

    [install] = [line for line in ran.stdout.splitlines() if " install " in line]

    assert install.endswith(" -e .")


def test_a_users_install_is_at_most_32_packages() -> None:
    packages = installed_by("weighbridge")

    assert {"weighbridge", "fastapi", "pydantic-core", "uvloop"} <= packages
    assert len(packages) <= 32, sorted(packages)


def test_what_only_developers_need_is_not_installed() -> None:
    assert installed_by("weighbridge").isdisjoint({"pytest", "mypy", "httpx2", "packaging", "rich"})
