"""The lock is installed without resolving, so it must be complete and consistent by itself."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Their requirements ask for CUDA builds; what they really import is listed in the `cpu` extra.
UNMET_ON_PURPOSE = {"sglang", "xgrammar"}


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, str]:
    lines = [line.strip() for line in (root / "constraints" / "cpu.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    return {canonicalize_name(name): version for name, version in pairs}


def unmet(requirements: list[str], locked: dict[str, str]) -> list[str]:
    parsed = [Requirement(line) for line in requirements]
    return [
        str(requirement)
        for requirement in parsed
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), True)
    ]


@pytest.mark.parametrize("part", ["dependencies", "cpu", "dev"])
def test_meets_our_requirements(root: Path, locked: dict[str, str], part: str) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] if part == "dependencies" else project["optional-dependencies"][part]
    assert unmet(requirements, locked) == []
    assert {canonicalize_name(Requirement(line).name) for line in requirements} <= set(locked)


def test_is_closed_under_requirements(locked: dict[str, str]) -> None:
    """Every requirement of a locked package is locked too, in a version that it accepts."""
    missing = {}
    for name in sorted(set(locked) - UNMET_ON_PURPOSE):
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        if found := unmet(requirements, locked):
            missing[name] = found
    assert missing == {}


def test_torch_is_the_cpu_build(locked: dict[str, str]) -> None:
    assert locked["torch"].endswith("+cpu")
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-"))]
