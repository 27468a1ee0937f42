"""Write the nano model's card from its raw figures: `python3 -m sgl_indexcache.nano card`.

Reads docs/results/raw/nano, writes docs/results/nano.md with its plots and the checkpoint's README.md. The same figures
give the same files; needs matplotlib, not torch.
"""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.cards import card_plots
from sgl_indexcache.nano.cards.card_text import card, readme
from sgl_indexcache.nano.cards.tables import Figures, read


def write(figures: Figures, results: Path, checkpoint: Path) -> list[Path]:
    """Write the card, its plots and the checkpoint's README.md; their paths."""
    results.mkdir(parents=True, exist_ok=True)
    paths = [results / "nano.md", checkpoint / "README.md"]
    paths[0].write_text(card(figures))
    paths[1].write_text(readme(figures))
    return paths + card_plots.draw_all(results, figures.log, figures.evaluation)


def command(
    results: Annotated[Path, typer.Option("--results", help="Folder of nano.md and raw/nano.")] = Path("docs/results"),
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", show_default="the trained one", help="Model.")
    ] = CHECKPOINT,
) -> None:
    """Write docs/results/nano.md with its plots, and the checkpoint's README.md, from the raw figures."""
    for path in write(read(results / "raw" / "nano", checkpoint), results, checkpoint):
        print(path)
