"""Two-level scoring of the trained model on the CPU: recall, loss, facts found and work by size of the lists.

python -m sgl_indexcache.nano shortlist --data DIR --out FILE [--lengths 2048 4096 8192] [--shares 0.25 0.5]

--data is what the command `corpus` writes. Selections are made by the very objects that serve on the CPU, over the
training model's projections, in float32. A share is the part of the last row's keys that its shortlist, its own page
and all page summaries take together.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.nano.model import Layer, Projections
from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.studies.trained import SEED, TrainedModel, count_units, loss_of
from sgl_indexcache.nano.studies.two_level import Sequence, select_exactly
from sgl_indexcache.nano.training.measures import digits_right
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.tasks import needle_batch, windows
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.shortlist/4"
EVERY = 64
"""One row in so many is compared with exact scoring."""
BLOCK = 64
"""Rows that would share a shortlist, for the ceiling of shared shortlists."""
LENGTHS = [2048, 4096, 8192]
SHARES = [0.25, 0.375, 0.5]
FLOORS = [0.0]


class TwoLevelModel(TrainedModel):
    """The trained model with the selections of the serving path.

    two_level  None scores exactly
    counts     what exact rows selected of each page: for each layer float32 [T, pages]
    recalls    of the selections that two-level scoring made, where the guard had it score exactly included: for each
               layer the mean of every EVERY-th row that had a shortlist
    """

    def __init__(self) -> None:
        super().__init__()
        self.two_level: Sequence | None = None
        self.counts: list[torch.Tensor] = []
        self.recalls: list[float] = []

    def _bias(self, layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
        q, k, gates = (x[0] for x in layer.self_attn.indexer(parts.x, parts.latent, rotary))
        length = k.shape[0]
        if self.two_level is None:
            selection = select_exactly(q, gates, k)
            self.counts.append(count_units(selection, PAGE, -(-length // PAGE)))
        else:
            selection = self.two_level.select(self.layer_ids[layer], q, gates, k)
            shortlist = self.two_level.shortlist
            rows = [t for t in range(0, length, EVERY) if not shortlist.lists_all(t // PAGE, NANO.index_topk)]
            if rows:
                self.recalls.append(recall_of(selection, torch.tensor(rows), q, gates, k))
        bias = torch.full((length, length + 1), float("-inf"))
        picks = torch.where(selection < 0, length, selection).long()
        return bias.scatter_(1, picks, 0.0)[None, None, :, :length]


def recall_of(
    selection: torch.Tensor, rows: torch.Tensor, q: torch.Tensor, gates: torch.Tensor, k: torch.Tensor
) -> float:
    """Part of the exact selections of `rows` int64 [R] that `selection` int32 [T, topk] holds, mean over rows.

    q [T, H, D], gates [T, H], k [T, D]; rows see at least topk positions.
    """
    exact = select(score(q[rows], k, gates[rows]), rows + 1, selection.shape[1]).long()
    held = torch.zeros(len(rows), len(k) + 1, dtype=torch.bool)
    held.scatter_(1, torch.where(selection[rows] < 0, len(k), selection[rows]).long(), True)
    return float(held.gather(1, exact).float().mean())


def shortlist_of(share: float, length: int) -> Shortlist:
    """The shortlist with which the last row of `length` tokens scores `share` of its keys, summaries included."""
    pages = int((share * length - length / PAGE - PAGE / 2) // PAGE)
    return Shortlist(pages * PAGE)


def ceiling(counts: list[torch.Tensor], shortlist: Shortlist) -> dict[str, float]:
    """Best recall that any choice of so many pages could reach, by rows and by blocks of rows that share it.

    Over the last quarter of the rows, mean over layers.
    """
    rows, shared = [], []
    for table in counts:
        length = table.shape[0] // BLOCK * BLOCK
        for begin in range(length * 3 // 4 // BLOCK * BLOCK, length, BLOCK):
            page = begin // PAGE
            n = shortlist.pages(page, NANO.index_topk)
            block = table[begin : begin + BLOCK, : page + 1]
            own = block[:, page]
            best = block[:, :page].topk(n).values.sum(1) + own
            together = block[:, :page].sum(0).topk(n).values.sum() + own.sum()
            rows.append(float((best / block.sum(1)).mean()))
            shared.append(float(together / block.sum()))
    return {"row": round(sum(rows) / len(rows), 4), "block": round(sum(shared) / len(shared), 4)}


def compare(
    model: TwoLevelModel, text: torch.Tensor, length: int, shares: list[float], sequences: int, floors: list[float]
) -> list[dict[str, Any]]:
    """Recall, loss and work by share and floor, over the same windows of held-out text."""
    generator = torch.Generator().manual_seed(SEED)
    plans = [
        (share, floor, shortlist_of(share, length))
        for share in shares
        for floor in floors
        if shortlist_of(share, length).size >= NANO.index_topk
    ]
    entries: list[dict[str, Any]] = [
        {"length": length, "share": share, "floor": floor, "shortlist": shortlist.size, "sums": []}
        for share, floor, shortlist in plans
    ]
    exact: list[torch.Tensor] = []
    for number in range(sequences):
        tokens = windows(text, 1, length + 1, generator)[0]
        model.two_level, model.counts = None, []
        exact.append(loss_of(model, tokens))
        bounds = [ceiling(model.counts, shortlist) for _, _, shortlist in plans]
        model.counts = []
        for entry, bound, (_, floor, shortlist) in zip(entries, bounds, plans, strict=True):
            model.two_level, model.recalls = Sequence(shortlist, length, floor, EVERY), []
            loss = loss_of(model, tokens)
            served = statistics.fmean(model.recalls) if model.recalls else 1.0
            entry["sums"].append(
                (loss, bound, model.two_level.work.snapshot(), per_row(model.two_level, length), served)
            )
            change = float(loss.mean() / exact[-1].mean() - 1)
            print(length, entry["share"], floor, number, change, round(served, 4), flush=True)
    return [settle(entry, exact) for entry in entries]


def per_row(two_level: Sequence, length: int) -> float:
    """Part of its keys that the last row scores, summaries included; the guard apart."""
    complete = (length - 1) // PAGE
    n = two_level.shortlist.pages(complete, NANO.index_topk)
    return float((n * PAGE + (length - 1) % PAGE + 1 + complete) / length)


def settle(entry: dict[str, Any], exact: list[torch.Tensor]) -> dict[str, Any]:
    """Means over sequences."""
    sums = entry.pop("sums")
    late = slice(len(exact[0]) * 3 // 4, None)
    base, base_late = (torch.stack([e[part].mean() for e in exact]).mean() for part in (slice(None), late))
    loss, loss_late = (torch.stack([s[0][part].mean() for s in sums]).mean() for part in (slice(None), late))
    work = [s[2] for s in sums]
    recalls = {layer: [w["recall"].get(layer, 1.0) for w in work] for layer in work[0]["sampled_rows"]}
    by_layer = [round(sum(values) / len(values), 4) for values in recalls.values()]
    keys = {
        name: sum(w[name] for w in work) for name in ("keys_seen", "keys_scored", "summaries_scored", "keys_sampled")
    }
    return {
        **entry,
        "sequences": len(sums),
        "loss_exact": round(float(base), 5),
        "loss": round(float(loss), 5),
        "loss_change": round(float(loss / base - 1), 6),
        "loss_change_last_quarter": round(float(loss_late / base_late - 1), 6),
        "recall": round(statistics.fmean(by_layer), 4) if by_layer else 1.0,
        "recall_by_layer": by_layer,
        "recall_served": round(statistics.fmean(s[4] for s in sums), 4),
        "ceiling_row": round(sum(s[1]["row"] for s in sums) / len(sums), 4),
        "ceiling_block": round(sum(s[1]["block"] for s in sums) / len(sums), 4),
        "last_row_keys": round(sums[0][3], 4),
        "prompt_keys": round((keys["keys_scored"] + keys["summaries_scored"]) / keys["keys_seen"], 4),
        "guard_keys": round(keys["keys_sampled"] / keys["keys_seen"], 4),
        "fallbacks": sum(sum(w["fallbacks"].values()) for w in work),
    }


@torch.no_grad()
def needles(
    model: TwoLevelModel, text: torch.Tensor, length: int, share: float, floor: float, count: int
) -> Iterator[dict[str, Any]]:
    """Facts asked for at the very end, found by exact and by two-level scoring; the tally after each of them."""
    generator = torch.Generator().manual_seed(SEED + 1)
    shortlist = shortlist_of(share, length)
    results = []
    for number in range(count):
        depth = torch.tensor([number / max(1, count - 1)])
        family = torch.tensor([number % len(FAMILIES)])
        batch = needle_batch(text, length, depth, family, 0, phrases(text.device), generator)
        model.two_level, model.counts = None, []
        exact = bool(digits_right(model, batch, True))
        model.two_level = Sequence(shortlist, length, floor, EVERY)
        results.append((exact, bool(digits_right(model, batch, True))))
        print("needle", number, *results[-1], flush=True)
        yield {
            "length": length,
            "share": share,
            "floor": floor,
            "asked": len(results),
            "exact": sum(by_exact for by_exact, _ in results),
            "two_level": sum(by_two_level for _, by_two_level in results),
        }


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE")],
    lengths: Annotated[list[int], typer.Option("--lengths", help="Tokens of a window.")] = LENGTHS,
    shares: Annotated[list[float], typer.Option("--shares", help="Of the last row's keys.")] = SHARES,
    floors: Annotated[list[float], typer.Option("--floors", help="Of the recall guard.")] = FLOORS,
    sequences: Annotated[int, typer.Option("--sequences", help="Windows of each length.")] = 2,
    count: Annotated[
        int, typer.Option("--needles", help="Facts at the longest length, the first share, every floor.")
    ] = 10,
) -> None:
    """Recall, loss, facts found and work of two-level scoring, by context length and size of the lists.

    Selections are those of the objects that serve on the CPU, over the training model's projections, in float32. A
    share is the part of the last row's keys that its list, its own page and all page summaries take together.
    """
    begun = time.monotonic()
    text = read_shard(data, "heldout", torch.device("cpu"))
    model = TwoLevelModel()
    document: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "model": {"topk": NANO.index_topk, "layers": NANO.num_hidden_layers},
        "rows": [],
        "needles": [],
    }

    def write() -> None:
        document["seconds"] = round(time.monotonic() - begun, 1)
        write_json(out, SCHEMA, document)

    # Hours on a small machine: what is known is on disk.
    for length in lengths if sequences else ():
        document["rows"] += compare(model, text, length, shares, sequences, floors)
        write()
    for floor in floors:
        done = list(document["needles"])
        for tally in needles(model, text, max(lengths), shares[0], floor, count):
            document["needles"] = [*done, tally]
            write()
