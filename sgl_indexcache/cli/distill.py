"""`sgl-indexcache distill`: train the retained indexers for the layers that they serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgl_indexcache.cli.console import messages, out

if TYPE_CHECKING:
    from sgl_indexcache.distill.run import Job


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("distill")(distill)


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
    warmup_steps: Annotated[int, typer.Option("--warmup-steps", help="Stage 1: indexers only, dense.")] = 1000,
    sparse_steps: Annotated[int, typer.Option("--sparse-steps", help="Stage 2: everything, sparse.")] = 4000,
    warmup_rate: Annotated[float, typer.Option("--warmup-rate", help="Highest learning rate of stage 1.")] = 1e-3,
    sparse_rate: Annotated[float, typer.Option("--sparse-rate", help="Highest learning rate of stage 2.")] = 1e-5,
    length: Annotated[int, typer.Option("--length", help="Tokens of a sequence.")] = 8192,
    sequences: Annotated[int, typer.Option("--sequences", help="Sequences of a micro-batch on a device.")] = 1,
    accumulate: Annotated[int, typer.Option("--accumulate", help="Micro-batches of a step.")] = 1,
    queries: Annotated[
        int | None, typer.Option("--queries", help="Sampled queries of a sequence for the KL; default: all.")
    ] = None,
    form: Annotated[
        str,
        typer.Option("--form", help="sum of KLs (less memory) or KL to the mean (faster); the gradient is the same."),
    ] = "sum",
    cross_layer: Annotated[
        bool,
        typer.Option("--cross-layer/--own-layer", help="Learn for all served layers, or for the own layer alone."),
    ] = True,
    slice_rows: Annotated[int, typer.Option("--slice-rows", help="Queries of the loss at a time: less memory.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the data and the sampled queries.")] = 0,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="bfloat16 or float32; default: bfloat16 on CUDA, else float32.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cuda or cpu; default: CUDA if there is any.")] = None,
    offload: Annotated[bool, typer.Option("--offload", help="Keep stage 2's activations in host memory.")] = False,
    save_every: Annotated[int, typer.Option("--save-every", help="Steps between saved states.")] = 100,
    log_every: Annotated[int, typer.Option("--log-every", help="Steps between lines of the log.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the memory plan, stop.")] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="With --dry-run: plan for so many devices.")
    ] = None,
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
    from sgl_indexcache.distill.plan import Plan

    plan = Plan(
        warmup_steps=warmup_steps,
        sparse_steps=sparse_steps,
        warmup_rate=warmup_rate,
        sparse_rate=sparse_rate,
        length=length,
        sequences=sequences,
        accumulate=accumulate,
        queries=queries,
        form=form,  # type: ignore[arg-type]
        cross_layer=cross_layer,
        slice_rows=slice_rows,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]
        offload=offload,
        save_every=save_every,
        log_every=log_every,
    )
    job = run.prepare(model, pattern, data, folder, plan)
    if dry_run:
        _print_plan(job, processes or 1, device)
        return
    group = run.start(device)
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


def _print_plan(job: "Job", world: int, device: str | None) -> None:
    import torch
    from rich.table import Table

    from sgl_indexcache.distill import run
    from sgl_indexcache.distill.plan import STAGES

    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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
