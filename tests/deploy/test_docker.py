"""Dockerfiles and compose: linted, pinned, without root, and their script does what it says."""

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

DOCKERFILES = ("gpu", "cpu", "router")


@pytest.fixture(scope="module")
def steps(deploy: Path) -> ModuleType:
    """deploy/docker/run_steps.py."""
    spec = importlib.util.spec_from_file_location("run_steps", deploy / "docker" / "run_steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_steps"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def hadolint(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "hadolint"), "--failure-threshold", "info", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(deploy: Path, name: str) -> None:
    done = hadolint(deploy / "docker" / f"{name}.Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_is_strict(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp && sudo ls\n")
    assert hadolint(bad).returncode != 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_last_stage(deploy: Path, steps: ModuleType, name: str) -> None:
    """A fixed user that is not root, a health check, no shell between the engine's SIGTERM and the server."""
    found = steps.instructions((deploy / "docker" / f"{name}.Dockerfile").read_text())
    last = found[max(number for number, (keyword, _) in enumerate(found) if keyword == "FROM") :]
    rest = dict(last)
    assert rest["USER"] == "10001:10001"
    assert rest["ENTRYPOINT"].startswith("[")
    assert "CMD [" in rest["HEALTHCHECK"]
    assert '"/tmp"' in rest["VOLUME"]
    if name != "router":
        assert rest["HEALTHCHECK"].endswith('CMD ["sgl-indexcache", "health"]')
        assert '"/cache"' in rest["VOLUME"]


def test_images_are_pinned(deploy: Path, steps: ModuleType) -> None:
    gpu = steps.instructions((deploy / "docker" / "gpu.Dockerfile").read_text())
    (base,) = (rest for keyword, rest in gpu if keyword == "FROM" and "sglang" in rest)
    assert base == "lmsysorg/sglang:v0.5.17@${SGLANG_DIGEST:?missing}"
    assert ("ARG", "SGLANG_DIGEST") in gpu  # without a default
    images = re.findall(r"image: (\S+/\S+)", (deploy / "compose" / "compose.yaml").read_text())
    assert len(images) == 2
    assert all(re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", image) for image in images)


def test_a_build_without_a_digest_stops(steps: ModuleType) -> None:
    with pytest.raises(SystemExit, match="SGLANG_DIGEST: missing"):
        steps.expand("lmsysorg/sglang:v0.5.17@${SGLANG_DIGEST:?missing}", {"SGLANG_DIGEST": ""})
    assert steps.expand("a@${D:?missing} $E", {"D": "1"}) == "a@1 "


def test_versions_are_those_of_the_lock(deploy: Path) -> None:
    locked = set((deploy.parent / "constraints" / "cpu.txt").read_text().split("\n"))
    pinned = [line for line in (deploy / "docker" / "constraints.txt").read_text().split("\n") if "==" in line]
    assert pinned
    assert set(pinned) <= locked
    assert (
        set(re.findall(r"(build==\S+|setuptools==\S+)", (deploy / "docker" / "gpu.Dockerfile").read_text())) <= locked
    )


def test_what_goes_into_the_demo_image_is_what_it_needs(deploy: Path, steps: ModuleType, tmp_path: Path) -> None:
    """.dockerignore, as the script reads it: nothing that installing needs is left out, and nothing private goes in."""
    root = deploy.parent
    text = (deploy / "docker" / "cpu.Dockerfile.dockerignore").read_text()
    rules = [line for line in text.split("\n") if line and line[0] != "#"]
    stage = steps.Stage(tmp_path, folder="/app")
    context = tmp_path / "context"
    for name in ("constraints/cpu.txt", "scripts/install_cpu.py", "sgl_indexcache/a/b.py", "setup.py", ".git/config"):
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("sgl_indexcache/a/__pycache__/b.pyc", "docs/a.md", ".venv/x"):
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    steps.copy(stage, ". .", context, rules, {})
    copied = {path.relative_to(tmp_path / "app").as_posix() for path in (tmp_path / "app").rglob("*") if path.is_file()}
    assert copied == {"constraints/cpu.txt", "scripts/install_cpu.py", "sgl_indexcache/a/b.py", "setup.py"}
    inputs = re.search(r"^INPUTS = \((.*)\)$", (root / "scripts" / "install_cpu.py").read_text(), re.MULTILINE)
    assert inputs
    for name in re.findall(r'"([^"]+)"', inputs[1]):
        assert any(rule in (f"!{name}", f"!{name.split('/')[0]}") for rule in rules), name


def test_the_script_refuses_what_it_does_not_know(steps: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    path = tmp_path / "Dockerfile"
    path.write_text("FROM x\nONBUILD RUN true\n")
    options = argparse.Namespace(
        build_arg=[], base=[f"x={tmp_path / 'base'}"], work=tmp_path / "work", context=tmp_path, env=[], bind=[]
    )
    options.work.mkdir()
    with pytest.raises(SystemExit, match="ONBUILD is not understood"):
        steps.build(path, options)


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((deploy / "compose" / "compose.yaml").read_text()))


@pytest.mark.parametrize("name", ["server", "prometheus", "grafana"])
def test_services_are_hardened_and_local(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"}
    assert service["mem_limit"]
    if name != "server":  # its user is the image's
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


def test_grafana_has_no_default_password(compose: dict[str, Any], deploy: Path) -> None:
    environment = compose["services"]["grafana"]["environment"]
    assert not [name for name in environment if "PASSWORD" in name and not name.endswith("__FILE")]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana-password"
    assert compose["secrets"]["grafana-password"] == {"file": "./grafana-password"}
    assert not (deploy / "compose" / "grafana-password").exists()
    assert "grafana-password" in (deploy / "compose" / ".gitignore").read_text().split()


def test_mounted_files_exist_and_volumes_are_declared(compose: dict[str, Any], deploy: Path) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (deploy / "compose" / source).is_file(), source
            else:
                assert source in compose["volumes"]


def test_settings_files_are_settings(deploy: Path) -> None:
    from sgl_indexcache.settings import load

    for name in ("indexcache.yaml", "indexcache.gpu.yaml"):
        assert load(deploy / "compose" / name, {}).enabled


def test_the_demo_serves_the_demo_pattern(deploy: Path) -> None:
    from sgl_indexcache.demo.__main__ import PATTERN

    places = ("docker/cpu.Dockerfile", "compose/indexcache.yaml", "k8s/overlays/cpu-demo/indexcache.yaml")
    assert all(PATTERN in (deploy / place).read_text() for place in places)
