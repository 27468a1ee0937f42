"""Every flag in a manifest, a Dockerfile and a compose file is one that the command takes, with a value it takes."""

import argparse
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sgl_indexcache.cli import health, loadtest, serve

Render = Callable[[str], list[dict[str, Any]]]
OVERLAYS = ("single-gpu", "tp8", "multi-node", "router", "cpu-demo")
ROUTER = Path(__file__).with_name("router_flags.txt")


def entrypoint(dockerfile: Path) -> list[str]:
    """Words of an image's ENTRYPOINT."""
    return list(json.loads(re.findall(r"^ENTRYPOINT (.*)$", dockerfile.read_text(), re.MULTILINE)[-1]))


def commands(module: Any) -> dict[str, Any]:
    """The click commands that a module of the CLI registers."""
    app = typer.Typer()
    module.register(app)
    app.command("another")(lambda: None)  # with one alone typer makes no group
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def check_serve(words: list[str]) -> None:
    """Raise unless `sgl-indexcache serve` and SGLang take these words."""
    from sglang.srt.server_args import ServerArgs

    context = commands(serve)["serve"].make_context("serve", list(words))
    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    try:
        known, rest = parser.parse_known_args(["--model-path", context.params["model_path"], *context.args])
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"not known: {rest}")
    assert known.enable_metrics
    assert known.port == 30000


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


def containers(render: Render, image: str) -> list[list[str]]:
    """The arguments of every container with an image of this name; what Kubernetes fills in is filled in."""
    given = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS):20000": "leader:20000"}
    return [
        [given.get(word, word) for word in node["args"]]
        for overlay in OVERLAYS
        for node in walk(render(f"k8s/overlays/{overlay}"))
        if re.fullmatch(rf".*/{image}(-cpu)?:[^/]+", str(node.get("image", "")))
    ]


@pytest.fixture(autouse=True)
def plugin_loaded() -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()


def test_servers_in_kubernetes(render: Render, deploy: Path) -> None:
    head = entrypoint(deploy / "docker" / "gpu.Dockerfile")
    assert head[:4] == ["tini", "--", "sgl-indexcache", "serve"]
    assert entrypoint(deploy / "docker" / "cpu.Dockerfile") == head
    found = containers(render, "sgl-indexcache")
    assert len(found) == 6  # one an overlay, two in the group
    for words in found:
        check_serve(head[4:] + words)


def test_servers_in_compose_and_the_image_itself(deploy: Path) -> None:
    head = entrypoint(deploy / "docker" / "cpu.Dockerfile")[4:]
    compose = yaml.safe_load((deploy / "compose" / "compose.yaml").read_text())
    check_serve(head + compose["services"]["server"]["command"])
    command = re.search(
        r"^CMD (\[.*?\])$", (deploy / "docker" / "cpu.Dockerfile").read_text(), re.DOTALL | re.MULTILINE
    )
    assert command
    check_serve(head + json.loads(command[1].replace("\\\n", "")))
    text = (deploy / "compose" / "gpu.yaml").read_text()
    line = re.search(r"command: !override (\[.*\])", text)
    assert line
    check_serve(head + ["1" if word.startswith("${") else word for word in yaml.safe_load(line[1])])


@pytest.mark.parametrize("words", [["--tp-sizes", "8"], ["--tp-size", "eight"], ["--patern=1/4"]])
def test_the_check_fires(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"not known|invalid"):
        check_serve(["--model-path", "/models/model", "--port", "30000", "--enable-metrics", *words])


def test_the_router(render: Render) -> None:
    (words,) = containers(render, "sgl-indexcache-router")
    known = set(ROUTER.read_text().split())
    used = {word for word in words if word.startswith("--")}
    assert used
    assert used <= known


def test_probes_and_the_load_test(render: Render) -> None:
    probes = [
        node["command"]
        for overlay in OVERLAYS
        for node in walk(render(f"k8s/overlays/{overlay}"))
        if isinstance(node.get("command"), list)
    ]
    asked = [shlex.split(word[-1].removeprefix("exec ")) if word[0] == "sh" else word for word in probes]
    asked = [words[1:] for words in asked if words[0] == "sgl-indexcache"]
    assert len(asked) > 10
    for name, *words in asked:
        commands(health)[name].make_context(name, words)
    (job,) = (one for one in render("k8s/loadtest") if one["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["tini", "--", "sgl-indexcache", "loadtest"]
    group = commands(loadtest)["loadtest"]
    name, *words = container["args"]
    context = group.commands[name].make_context(name, words)
    from sgl_indexcache.loadtest.workload.spec import load_workload

    assert load_workload(context.params["workload"], None)
