"""`sgl-indexcache doctor`: what is installed, whether every seam is in force, and what would serve what."""

import contextlib
import json
import os
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sgl_indexcache import __version__
from sgl_indexcache.settings import Settings, json_schema, load

SCHEMA = 1
_PACKAGES = (
    "sglang",
    "torch",
    "triton",
    "transformers",
    "flashinfer-python",
    "sglang-kernel",
    "sgl-indexcache",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Check versions, devices and seams; exit code 1 when this machine cannot serve.")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the settings file and stop.")
    ] = False,
) -> None:
    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    settings = load()
    with contextlib.redirect_stdout(sys.stderr):  # SGLang prints while it is imported
        report = diagnose(settings)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    raise typer.Exit(0 if report["servable"] else 1)


def diagnose(settings: Settings) -> dict[str, Any]:
    """The whole report. Imports SGLang and loads its plugins, once a process.

    Keys: schema, servable, problems, versions, python, device, enabled, settings, seams
    `[{name, in_force, detail}]`, kernels `{phase: {score, select, attention}}`.
    """
    device = _device()
    if device["kind"] == "cpu":
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    seams: list[dict[str, Any]] = []
    problems = _plugin_problems()
    if settings.enabled:
        seams = _seams()
        problems += [f"seam {s['name']}: {s['detail']}" for s in seams if not s["in_force"]]
    return {
        "schema": SCHEMA,
        "servable": not problems,
        "problems": problems,
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": device,
        "enabled": settings.enabled,
        "settings": settings.model_dump(mode="json"),
        "seams": seams,
        "kernels": _kernels(device["kind"], device.get("capability"), settings),
    }


def _version(package: str) -> str | None:
    if package == "sgl-indexcache":
        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    """The device that `serve` would choose: kind (cpu, cuda), name, count, memory_gib, detail."""
    try:
        import torch
    except ImportError:
        return {"kind": "cpu", "name": platform.processor() or platform.machine(), "count": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return {
            "kind": "cuda",
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
        }
    return {"kind": "cpu", "name": platform.processor() or platform.machine(), "count": os.cpu_count()}


def _plugin_problems() -> list[str]:
    """Reasons for which SGLang would not even call the plugin."""
    problems = []
    if _version("sglang") is None:
        problems.append("SGLang is not installed; run pip install '.[gpu]' or python scripts/install_cpu.py")
    names = [entry.name for entry in metadata.entry_points(group="sglang.srt.plugins")]
    if "indexcache" not in names:
        problems.append("the entry point is not installed; run pip install . in the project's folder")
    allowed = os.environ.get("SGLANG_PLUGINS", "")
    if allowed.strip() and "indexcache" not in [name.strip() for name in allowed.split(",")]:
        problems.append("SGLANG_PLUGINS leaves the plugin out; add indexcache to it")
    return problems


def _seams() -> list[dict[str, Any]]:
    from sgl_indexcache.sglang_port import registry

    return [entry.as_dict() for entry in registry.diagnose()]


def _kernels(kind: str, capability: str | None, settings: Settings) -> dict[str, dict[str, str]]:
    if kind == "cpu":
        used = {
            "score": "torch, tiled",
            "select": "torch.topk, ties by position",
            "attention": "torch, gather",
        }
        return {"prefill": used, "decode": used}
    from sgl_indexcache.attention.choice import describe

    return describe(settings.kernels, hopper=capability == "9.0")


def _print(report: dict[str, Any]) -> None:
    console = Console()
    versions = Table(title="versions", show_header=False)
    for name, version in report["versions"].items():
        versions.add_row(name, version or "[dim]not installed[/dim]")
    versions.add_row("python", report["python"])
    device = report["device"]
    versions.add_row("device", " ".join(str(value) for value in device.values() if value is not None))
    console.print(versions)
    seams = Table("seam", "in force", "detail", title="seams")
    for seam in report["seams"]:
        seams.add_row(seam["name"], "[green]yes[/green]" if seam["in_force"] else "[red]no[/red]", seam["detail"])
    console.print(seams)
    kernels = Table("phase", "score", "select", "attention", title="kernels")
    for phase, used in report["kernels"].items():
        kernels.add_row(phase, used["score"], used["select"], used["attention"])
    console.print(kernels)
    if not report["enabled"]:
        console.print("The plugin is switched off (enabled: false); SGLang serves untouched.")
    for problem in report["problems"]:
        console.print(f"[red]problem:[/red] {problem}")
    console.print("servable: " + ("[green]yes[/green]" if report["servable"] else "[red]no[/red]"))
