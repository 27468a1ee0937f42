"""Figures of two-level scoring on the trained nano model: recall, loss, needles and work against shortlist size.

python -m sgl_indexcache.nano.two_level --data DIR --out FILE [--lengths 2048 4096 8192] [--shares 0.25 0.5]

--data is what `sgl_indexcache.nano.corpus` writes. Selections are made by the very objects that serve on the CPU, over
the training model's projections, in float32. A share is the part of the last row's keys that its shortlist, its own
page and all page summaries take together.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.indexer.exact import Selector
from sgl_indexcache.indexer.rows import Rows
from sgl_indexcache.indexer.shortlist import VOTED, Shortlist
from sgl_indexcache.indexer.two_level import Guard, TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.nano.evaluate import digits_right
from sgl_indexcache.nano.model import Layer, NanoModel, Projections
from sgl_indexcache.nano.phrases import FAMILIES, LEAD, SLOT, encode, phrases
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.tasks import needle_batch, windows
from sgl_indexcache.nano.train import read_shard
from sgl_indexcache.store.digest import count_pages
from sgl_indexcache.store.pages import Pages

CHECKPOINT = Path(__file__).parent / "checkpoint" / "model.safetensors"
SEED = 20_000_003
EVERY = 64
"""One row in so many is compared with exact scoring."""
ROWS_PER_SLICE = 256
BLOCK = 64
"""Rows that would share a shortlist, for the ceiling of shared shortlists."""


class Served(NanoModel):
    """The nano model with the selections of the serving path; one sequence at a time.

    two_level  None scores exactly
    counts     what exact rows selected of each page: for each layer int32 [T, pages]
    served     recall of the selections that two-level scoring made, where the guard had it score exactly included: for
               each layer the mean of every EVERY-th row that had a shortlist
    """

    def __init__(self) -> None:
        super().__init__(NANO)
        weights = {name: value.float() for name, value in load_file(CHECKPOINT).items()}
        self.load_state_dict(weights)
        self.two_level: TwoLevel | None = None
        self.counts: list[torch.Tensor] = []
        self.served: list[float] = []
        self._index = {layer: number for number, layer in enumerate(self.model.layers)}

    def _bias(self, layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
        q, k, gates = (x[0] for x in layer.self_attn.indexer(parts.x, parts.latent, rotary))
        length = k.shape[0]
        number = self._index[layer]
        table = torch.arange(length, dtype=torch.int32).unsqueeze(0)
        rows = Rows.of([0], [length], [length], length)
        selector = Selector(NANO.index_topk)
        if self.two_level is None:
            selection = selector(lambda part: (q[part], gates[part]), k, table, rows)
            self.counts.append(count_pages(selection, torch.arange(length), length, -(-length // PAGE)))
        else:
            keys = torch.cat((k, k.new_zeros(-length % PAGE, k.shape[1])))
            if number == 0:
                self.two_level.pages.begin(rows)
            selection = self.two_level.select(number, selector, lambda part: (q[part], gates[part]), keys, table, rows)
            shortlist = self.two_level.shortlist
            some = [t for t in range(0, length, EVERY) if not shortlist.lists_all(t // PAGE, NANO.index_topk)]
            if some:
                self.served.append(recall_of(selection, torch.tensor(some), q, gates, k))
        bias = torch.full((length, length + 1), float("-inf"))
        picks = torch.where(selection < 0, length, selection).long()
        return bias.scatter_(1, picks, 0.0)[None, None, :, :length]

    def _attend(self, parts: Projections, bias: torch.Tensor | None) -> torch.Tensor:
        """As the model's, in slices that stop at the diagonal: half the work, and nothing of [heads, T, T]."""
        assert bias is not None
        q, k, v = parts.q, parts.k, parts.v
        length = q.shape[2]
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        for begin in range(0, length, ROWS_PER_SLICE):
            end = min(length, begin + ROWS_PER_SLICE)
            logits = torch.matmul(q[:, :, begin:end], k[:, :, :end].mT).mul_(q.shape[-1] ** -0.5)
            weights = logits.add_(bias[..., begin:end, :end]).softmax(-1)
            out[:, :, begin:end] = torch.matmul(weights, v[:, :, :end])
        return out.transpose(1, 2).reshape(-1, q.shape[1] * v.shape[-1])


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


def make(shortlist: Shortlist, length: int, floor: float) -> TwoLevel:
    """Two-level scoring with empty records."""
    pages = Pages(range(NANO.num_hidden_layers), -(-length // PAGE) * PAGE, NANO.index_head_dim, 1, length)
    return TwoLevel(pages, shortlist, Guard(floor, EVERY))


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
            block = table[begin : begin + BLOCK, : page + 1].float()
            own = block[:, page]
            best = block[:, :page].topk(n).values.sum(1) + own
            together = block[:, :page].sum(0).topk(n).values.sum() + own.sum()
            rows.append(float((best / block.sum(1)).mean()))
            shared.append(float(together / block.sum()))
    return {"row": round(sum(rows) / len(rows), 4), "block": round(sum(shared) / len(shared), 4)}


@torch.no_grad()
def loss_of(model: Served, tokens: torch.Tensor) -> torch.Tensor:
    """Loss in nats of every position, float64 `[T]`, of T + 1 tokens."""
    stream, _ = model.hidden(tokens[None, :-1], True)
    _, each = model.loss(stream, tokens[None, 1:], torch.ones(tokens.numel() - 1, device=tokens.device))
    return each.double()


def compare(
    model: Served, text: torch.Tensor, length: int, shares: list[float], sequences: int, floors: list[float]
) -> list[dict[str, Any]]:
    """Recall, loss and work by share and floor, over the same windows of held-out text."""
    generator = torch.Generator().manual_seed(SEED)
    plans = [
        (share, floor, shortlist_of(share, length))
        for share in shares
        for floor in floors
        if shortlist_of(share, length).size >= NANO.index_topk
    ]
    found: list[dict[str, Any]] = [
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
        for entry, bound, (_, floor, shortlist) in zip(found, bounds, plans, strict=True):
            model.two_level, model.served = make(shortlist, length, floor), []
            loss = loss_of(model, tokens)
            served = statistics.fmean(model.served) if model.served else 1.0
            entry["sums"].append(
                (loss, bound, model.two_level.work.snapshot(), per_row(model.two_level, length), served)
            )
            change = float(loss.mean() / exact[-1].mean() - 1)
            print(length, entry["share"], floor, number, change, round(served, 4), flush=True)
    return [settle(entry, exact) for entry in found]


def per_row(two_level: TwoLevel, length: int) -> float:
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
    model: Served, text: torch.Tensor, length: int, share: float, floor: float, count: int
) -> Iterator[dict[str, Any]]:
    """Facts asked for at the very end, found by exact and by two-level scoring; the tally after each of them.

    `unvoted`: those whose page no digest vote of any layer named where the question begins to be answered, so that
    nothing but the page's summary could put it into a shortlist.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    slots = (length - len(encode(LEAD))) // SLOT - 1
    shortlist = shortlist_of(share, length)
    results = []
    for number in range(count):
        depth = torch.tensor([number / max(1, count - 1)])
        family = torch.tensor([number % len(FAMILIES)])
        batch = needle_batch(text, length, depth, family, 0, phrases(text.device), generator)
        model.two_level, model.counts = None, []
        exact = bool(digits_right(model, batch, True))
        model.two_level = make(shortlist, length, floor)
        two_level = bool(digits_right(model, batch, True))
        said = round(float(depth) * (slots - 1)) * SLOT + len(encode(LEAD))
        last = (length - 1) // PAGE
        pages = model.two_level.pages
        voted = {
            int(page)
            for layer in range(NANO.num_hidden_layers)
            for page in pages.vote(layer, torch.arange(last - 2, last), last, VOTED)
        }
        stands = range(said // PAGE, (said + SLOT - 1) // PAGE + 1)
        results.append((exact, two_level, voted.isdisjoint(stands)))
        print("needle", number, *results[-1], flush=True)
        unvoted = [r for r in results if r[2]]
        yield {
            "length": length,
            "share": share,
            "floor": floor,
            "asked": len(results),
            "exact": sum(r[0] for r in results),
            "two_level": sum(r[1] for r in results),
            "unvoted": len(unvoted),
            "unvoted_two_level": sum(r[1] for r in unvoted),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.375, 0.5])
    parser.add_argument("--floors", type=float, nargs="+", default=[0.0])
    parser.add_argument("--sequences", type=int, default=2, help="windows of each length")
    parser.add_argument(
        "--needles", type=int, default=10, help="facts at the longest length, the first share, every floor"
    )
    options = parser.parse_args()
    begun = time.monotonic()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    model = Served()
    found: dict[str, Any] = {
        "schema": 2,
        "versions": {"torch": torch.__version__},
        "machine": {"threads": torch.get_num_threads(), "device": "cpu"},
        "model": {"topk": NANO.index_topk, "layers": NANO.num_hidden_layers},
        "rows": [],
        "needles": [],
    }

    def write() -> None:
        found["seconds"] = round(time.monotonic() - begun, 1)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")

    # Hours on a small machine: what is known is on disk.
    for length in options.lengths if options.sequences else ():
        found["rows"] += compare(model, text, length, options.shares, options.sequences, options.floors)
        write()
    for floor in options.floors:
        done = list(found["needles"])
        for asked in needles(model, text, max(options.lengths), options.shares[0], floor, options.needles):
            found["needles"] = [*done, asked]
            write()


if __name__ == "__main__":
    main()
