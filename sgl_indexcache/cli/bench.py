"""`sgl-indexcache bench`: kernels against their rivals, and four systems end to end."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sgl_indexcache.cli.console import messages, out

_commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Measure kernels and whole systems.")


def register(app: typer.Typer) -> None:
    """Add the command group `bench` to the application."""
    app.add_typer(_commands, name="bench")


@_commands.command()
def kernels(
    folder: Annotated[Path, typer.Option("--out", help="Folder for kernels.json.")] = Path("bench-results"),
    only: Annotated[str | None, typer.Option("--only", help="consumers, indexers, or both (the default).")] = None,
    fill: Annotated[
        Path | None,
        typer.Option("--fill", help="Also write the table of choices to this file (attention/choices.json)."),
    ] = None,
) -> None:
    """Time score, select and attention kernels against SGLang's, check each, and show ratios of right ones.

    \b
    sgl-indexcache bench kernels --out results --fill sgl_indexcache/attention/choices.json
    """
    from rich.table import Table

    from sgl_indexcache.bench import kernels as bench
    from sgl_indexcache.results import device, kernel_versions

    kinds = bench.kinds(only)
    table = Table("what", "phase", "heads", "rows", "keys", "kernel", "µs", "ratio", title="kernels")

    def show(entry: dict[str, Any]) -> None:
        shape = [entry["kind"], entry["phase"], *(f"{entry[name]:,}" for name in ("heads", "rows", "keys"))]
        messages.print(" ".join(shape), entry["ratios"])
        for name in sorted({*entry["us"], *entry["wrong"]}):
            us = entry["us"].get(name)
            time = f"{us['median']:.1f} ({us['low']:.1f} to {us['high']:.1f})" if us else "–"
            beside = (
                "SGLang's"
                if name == entry["peer"]
                else f"{entry['ratios'][name]:.2f}x"
                if name in entry["ratios"]
                else "–"
            )
            table.add_row(
                *shape, name, time, f"[red]{entry['wrong'][name]}[/red]" if name in entry["wrong"] else beside
            )

    entries = [entry for kind in kinds for entry in bench.measure(kind, show)]
    report = bench.write(folder / "kernels.json", entries, {**device(), **kernel_versions()})
    out.print(table)
    if fill is not None:
        bench.fill(fill, report)
        messages.print(f"table of choices written to {fill}")


@_commands.command()
def serve(
    model: Annotated[Path, typer.Option("--model", help="Model folder; without weights, random ones are used.")],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for results; what it has already is not measured again.")
    ],
    pattern: Annotated[
        str, typer.Option("--pattern", help="Pattern that is measured: letters, a preset, or 1/4.")
    ] = "1/4",
    systems: Annotated[
        str | None, typer.Option("--systems", help="Some of standard,reuse,indexcache,limit; all by default.")
    ] = None,
    lengths: Annotated[str | None, typer.Option("--lengths", help="Prompt lengths in tokens.")] = None,
    turns: Annotated[str | None, typer.Option("--turns", help="New tokens of warm turns.")] = None,
    batches: Annotated[str | None, typer.Option("--batches", help="Decode batches; '' for none.")] = None,
    prefix: Annotated[int | None, typer.Option("--prefix", help="Prefix that decode batches share, tokens.")] = None,
    colds: Annotated[int, typer.Option("--colds", min=1, help="Cold prefills of every length.")] = 2,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of every other figure.")] = 3,
    kv: Annotated[str, typer.Option("--kv", help="KV dtype on CUDA.")] = "bfloat16",
    prefill_backend: Annotated[
        str | None, typer.Option("--prefill-backend", help="SGLang's --dsa-prefill-backend for all systems.")
    ] = None,
    decode_backend: Annotated[
        str | None, typer.Option("--decode-backend", help="SGLang's --dsa-decode-backend for all systems.")
    ] = None,
    prefill_graph: Annotated[
        bool, typer.Option("--prefill-graph", help="Capture prefill graphs, slow to start.")
    ] = False,
    engine_json: Annotated[
        str, typer.Option("--engine", help="More arguments of sglang.Engine, JSON: '{\"mem_fraction_static\": 0.8}'.")
    ] = "{}",
    profile: Annotated[
        bool, typer.Option("--profile", help="Also write kernel times of a decode step and a warm turn, on CUDA.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one system.")] = 1800.0,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw PNGs; needs matplotlib.")] = True,
) -> None:
    """Cold prefill, warm turns, repeats and decode of standard DSA, SGLang's own reuse, IndexCache and its limit.

    Each system runs in a process of its own; systems may be measured by several calls with one --out. On the CPU
    the sizes are reduced and `reuse` does not exist.

    \b
    sgl-indexcache bench serve --model MODEL --out results --lengths 60000,120000,200000
    """
    import torch

    from sgl_indexcache.bench import serve as bench
    from sgl_indexcache.bench.errors import BenchError
    from sgl_indexcache.bench.systems import NAMES
    from sgl_indexcache.bench.systems import systems as choose
    from sgl_indexcache.bench.workload import Workload
    from sgl_indexcache.live.model import read_model
    from sgl_indexcache.pattern import read_config, resolve
    from sgl_indexcache.results import require_matplotlib

    if plot:
        require_matplotlib()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if profile and device == "cpu":
        raise BenchError("--profile needs CUDA: leave it out")
    facts = read_model(model)
    names = systems.split(",") if systems else [name for name in NAMES if device == "cuda" or name != "reuse"]
    chosen = choose(names, resolve(pattern, read_config(model)), device)
    sizes = {"lengths": "10240,61440,122880,200000", "turns": "1024,4096", "batches": "1,8,32", "prefix": 122880}
    if device == "cpu":
        sizes = {"lengths": "512,1024", "turns": "64", "batches": "1,4", "prefix": 1024}
    workload = Workload(
        lengths=_numbers("--lengths", lengths, sizes["lengths"]),
        turns=_numbers("--turns", turns, sizes["turns"]),
        batches=_numbers("--batches", batches, sizes["batches"]),
        prefix=sizes["prefix"] if prefix is None else prefix,  # type: ignore[arg-type]
        colds=colds,
        samples=samples,
        steps=96 if device == "cuda" else 8,
        probe=10240 if device == "cuda" else 256,
        vocabulary=facts.vocabulary,
    )
    named = {"dsa_prefill_backend": prefill_backend, "dsa_decode_backend": decode_backend}
    flags = {name: value for name, value in named.items() if value is not None} | _object("--engine", engine_json)
    engine = bench.engine_arguments(model, workload, device, kv, "bfloat16", prefill_graph, flags)
    for system in chosen:
        messages.print(f"[bold]{system.label}[/bold], pattern {system.pattern}")
        bench.run_system(system, facts, workload, engine, device, folder, timeout, profile=profile)
    _report(folder, plot)


@_commands.command("plot")
def plot_(folder: Annotated[Path, typer.Argument(help="Folder with the results of bench serve.")]) -> None:
    """Merge the systems in a folder, print the table and draw the plots, without measuring."""
    _report(folder, True)


def _numbers(flag: str, text: str | None, default: Any) -> tuple[int, ...]:
    from sgl_indexcache.bench.errors import BenchError

    written = default if text is None else text
    try:
        return tuple(sorted({int(part) for part in written.split(",") if part}))
    except ValueError:
        raise BenchError(f"{flag} {written!r} is not understood: write numbers, such as 1024,4096") from None


def _object(flag: str, text: str) -> dict[str, Any]:
    import json

    from sgl_indexcache.bench.errors import BenchError

    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{flag} is not JSON ({error.msg}): write an object, such as {{}}") from None
    if not isinstance(value, dict):
        raise BenchError(f"{flag} is no JSON object: write one, such as {{}}")
    return value


def _report(folder: Path, plot: bool) -> None:
    from rich.table import Table

    from sgl_indexcache.bench import plot as plots
    from sgl_indexcache.bench import report

    merged = report.write(folder)
    names = list(merged["systems"])
    table = Table("figure", *(f"{name}, ms" for name in names), *(f"{name} ratio" for name in names[1:]))
    for row in merged["figures"]:
        size = f"{row['length']:,}" + (f" + {row['new']:,}" if row["kind"] == "warm" else "")
        shown = [f"{row['kind']} {size}" + (f" x {row['batch']}" if row["kind"] == "decode" else "")]
        shown += [f"{row['ms'][name]:.2f}" if name in row["ms"] else "–" for name in names]
        for name in names[1:]:
            ratio = row["ratios"].get(name)
            shown.append(f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "–")
        table.add_row(*shown)
    out.print(table)
    if merged["refused"]:
        messages.print(
            f"[red]no ratio for indexcache:[/red] it and reuse do not agree on the probe: {merged['refused']}"
        )
    if plot:
        for path in plots.draw(folder, merged):
            messages.print(f"drawn: {path}")
