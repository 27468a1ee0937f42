"""Recall of the selections that are served, and the command in short."""

import json
import lzma
from pathlib import Path

import torch

from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.studies.shortlist_quality import recall_of

LENGTH, TOPK = 50, 8


def test_recall_is_what_the_served_selection_holds_of_the_exact_one() -> None:
    torch.manual_seed(0)
    q, gates, k = torch.randn(LENGTH, 3, 16), torch.rand(LENGTH, 3), torch.randn(LENGTH, 16)
    exact = select(score(q, k, gates), torch.arange(LENGTH) + 1, TOPK)
    rows = torch.tensor([20, 33, 49])
    assert recall_of(exact, rows, q, gates, k) == 1.0
    served = exact.clone()
    served[20, :2] = -1  # two of eight are missing
    missed = [position for position in range(34) if position not in exact[33].tolist()]
    served[33] = torch.tensor(missed[:TOPK])
    assert abs(recall_of(served, rows, q, gates, k) - (6 / 8 + 0 + 1) / 3) < 1e-6


def test_command(tmp_path: Path) -> None:
    (tmp_path / "heldout.bin.xz").write_bytes(lzma.compress(Path(__file__).read_bytes() * 3))
    out = tmp_path / "out" / "figures.json"
    command = ["shortlist", "--data", str(tmp_path), "--out", str(out), "--lengths", "640", "--shares", "0.7"]
    assert main([*command, "--floors", "0", "1", "--sequences", "1", "--needles", "1"]) == 0
    document = json.loads(out.read_text())
    free, exact = document["rows"]
    assert free["recall_served"] < 1.0
    assert exact["fallbacks"] >= free["fallbacks"] == 0
    assert [row["asked"] for row in document["needles"]] == [1, 1]
