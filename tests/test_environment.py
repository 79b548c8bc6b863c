"""One lock for pip and conda, for every system and every Python that the course supports."""

import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SYSTEMS = {
    "Linux x86-64": {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    },
    "Linux arm64": {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "aarch64",
        "os_name": "posix",
    },
    "macOS arm64": {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
        "os_name": "posix",
    },
    "Windows": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
}
PYTHONS = ("3.11", "3.12", "3.13")
SPOKEN = re.compile(r"^(?!\s*(#|$)).*", re.MULTILINE)


def lines(path: Path) -> list[str]:
    """A file's lines without comments and empty ones."""
    return [match.group().strip() for match in SPOKEN.finditer(path.read_text(encoding="utf-8"))]


def environment(system: str, python: str) -> dict[str, str]:
    """The marker variables of another machine."""
    return default_environment() | SYSTEMS[system] | {"python_version": python, "python_full_version": f"{python}.9"}


@pytest.fixture(scope="module")
def lock(root: Path) -> list[Requirement]:
    return [Requirement(line) for line in lines(root / "requirements.lock")]


@pytest.fixture(scope="module")
def asked(root: Path) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for line in project["dependencies"] + sum(extras.values(), [])]


def test_conda_installs_what_make_installs(root: Path) -> None:
    conda = lines(root / "environment.yml")
    packages = [line.removeprefix("- ") for line in conda[conda.index("dependencies:") + 1 :]]
    assert packages == ["python>=3.11,<3.14", "pip", "pip:", "-r requirements.txt"]  # nothing of its own beside pip
    assert lines(root / "requirements.txt") == ["-c requirements.lock", "-e .[grading,test]"]
    assert "pip install --disable-pip-version-check $index -r requirements.txt" in (root / "tools/setup.sh").read_text()


def test_the_python_versions_agree(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info < (3, 14)" in (root / "tools/setup.sh").read_text()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_lock_pins_every_request_once(
    system: str, python: str, lock: list[Requirement], asked: list[Requirement]
) -> None:
    there = [pin for pin in lock if pin.marker is None or pin.marker.evaluate(environment(system, python))]
    names = [canonicalize_name(pin.name) for pin in there]
    assert len(set(names)) == len(names), "a package is pinned twice"
    for request in asked:
        pins = [pin for pin in there if canonicalize_name(pin.name) == canonicalize_name(request.name)]
        assert len(pins) == 1, f"{request.name} is not in the lock for {system}, Python {python}"
        version = next(iter(pins[0].specifier)).version
        assert version in request.specifier, (
            f"the lock is older than pyproject.toml: {pins[0]} against {request}; make lock"
        )


def test_the_lock_holds_names_and_versions_only(root: Path, lock: list[Requirement]) -> None:
    for pin in lock:
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and pin.url is None, f"{pin} is no exact version"
        assert "+" not in specifier.version, f"{pin} is one machine's build"
    assert "://" not in (root / "requirements.lock").read_text(encoding="utf-8")


def test_systems_differ_where_they_must(lock: list[Requirement]) -> None:
    def names(system: str) -> set[str]:
        there = [p for p in lock if p.marker is None or p.marker.evaluate(environment(system, "3.12"))]
        return {canonicalize_name(pin.name) for pin in there}

    assert "triton" in names("Linux x86-64") and "triton" not in names("macOS arm64")
    assert "colorama" in names("Windows") and "colorama" not in names("Linux arm64")
    assert "appnope" in names("macOS arm64") and "pywinpty" in names("Windows")


def test_what_runs_is_what_the_lock_says(lock: list[Requirement]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    for pin in lock:
        if pin.marker is None or pin.marker.evaluate():
            try:
                found = version(pin.name)
            except PackageNotFoundError:
                continue  # torch's CUDA packages, where this machine has the CPU build
            (specifier,) = pin.specifier
            assert found.split("+")[0] == specifier.version, f"{pin.name} is {found} here; run make lab"


def test_ci_runs_make_test_and_nothing_else(root: Path) -> None:
    ci = lines(root / ".ci" / "run")
    assert ci == ["set -eu", 'cd "$(dirname "$0")/.."', "export CI=true", "exec make test"]
    assert (root / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("child", [False, True])
def test_the_network_is_cut(child: bool) -> None:
    ask = "import socket\ntry:\n    socket.create_connection(({!r}, 9), 5)\nexcept OSError as error:\n    print(error)"
    for host, answer in {
        "127.0.0.1": "refused",
        "192.0.2.1": "tests run offline",
        "example.org": "tests run offline",
    }.items():
        if child:
            said = subprocess.run([sys.executable, "-c", ask.format(host)], capture_output=True, text=True).stdout
        else:
            with pytest.raises(OSError) as caught:
                socket.create_connection((host, 9), 5)
            said = str(caught.value)
        assert answer in said
