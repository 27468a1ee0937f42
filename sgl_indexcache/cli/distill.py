"""`sgl-indexcache distill`: train the retained indexers for the layers that they serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgl_indexcache.cli.console import messages, out
from sgl_indexcache.cli.shared import takes
from sgl_indexcache.distill.plan import STAGES, Plan
from sgl_indexcache.flags import from_flags

if TYPE_CHECKING:
    from sgl_indexcache.distill.run import Job


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("distill")(distill)


@takes(Plan)
def distill(
    model: Annotated[Path, typer.Option("--model", help="Folder of the checkpoint (bf16 safetensors).")],
    data: Annotated[
        Path, typer.Option("--data", help='JSON lines, each {"text": ...} or {"ids": [...]}; or a folder of *.jsonl.')
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the result; states and log go to OUT.run.")],
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="Letters F and S, a preset, or 1/N; default: the model's own."),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the memory plan, stop.")] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="With --dry-run: plan for so many devices.")
    ] = None,
    **options: Any,
) -> None:
    """Train the retained indexers on the attention of all layers they serve, and write the checkpoint.

    Stage 1 trains the indexers of the Full layers alone (dense attention); stage 2 trains the whole model under the
    selections. The result has the layout of --model, with the pattern in its config. A stopped run goes on when the
    same command is given again. For several GPUs start it with torchrun; the model is sharded over all of them.

    \b
    sgl-indexcache distill --model MODEL --pattern 1/4 --data texts.jsonl --out MODEL-1-4 --dry-run
    torchrun --nproc-per-node 8 -m sgl_indexcache.cli distill --model MODEL --pattern 1/4 ...
    """
    from sgl_indexcache.distill import parallel, run

    plan = from_flags(Plan, options)
    job = run.prepare(model, pattern, data, folder, plan)
    if dry_run:
        _print_plan(job, processes or 1)
        return
    group = run.start(plan.device)
    try:
        full = len(job.pattern.full_layers)
        if group.first:
            messages.print(
                f"{job.facts.name}: {full} of {job.config.num_hidden_layers} layers Full, {group.world} process(es), "
                f"log in {job.folder / 'log.jsonl'}"
            )
        written = run.distill(job, group, messages.print)
        if group.first:
            out.print(f"serve it: sgl-indexcache serve --model-path {written}", soft_wrap=True)
    finally:
        parallel.stop(group)
    parallel.leave(group)


def _print_plan(job: "Job", world: int) -> None:
    import torch
    from rich.table import Table

    from sgl_indexcache.distill import run

    kind = torch.device(job.plan.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for stage in STAGES:
        if not job.plan.steps(stage):
            continue
        table = Table(title=f"{stage}: memory of each of {world} device(s)")
        table.add_column("for")
        table.add_column("GB", justify="right")
        items = run.memory(job, stage, world, kind)
        for item in items:
            table.add_row(item.what, f"{item.size / 1e9:.3f}")
        table.add_section()
        table.add_row("all together", f"{sum(item.size for item in items) / 1e9:.3f}")
        out.print(table)
