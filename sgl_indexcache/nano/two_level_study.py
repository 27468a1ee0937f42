"""Which rule should choose the pages of a shortlist: recall of candidates on the nano model, all at the same cost.

python -m sgl_indexcache.nano.two_level_study --data DIR --out FILE [--length 8192] [--share 0.25]

Every rule lists so many pages that the last row scores `share` of its keys, first level included, beside its own
page. `best` takes the pages that hold most of the exact selection: no rule can do better with units of that size.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.indexer.shortlist import DIGESTS
from sgl_indexcache.kernels.score import score
from sgl_indexcache.kernels.shortlist import PAGE, pack_summary, unpack_summary
from sgl_indexcache.nano.model import Layer, Projections
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.tasks import windows
from sgl_indexcache.nano.train import read_shard
from sgl_indexcache.nano.two_level import SEED, Served, loss_of

UNITS = (64, 32, 16)
SHARED = (4, 16, 64)
FORCED = (2, 4, 8, 16)
BLOCKS = (0.75, 0.99)
"""Where in the context the 64 judged rows stand."""


class Study(Served):
    """Exact scoring; judges every rule on some rows of every layer. recall[rule] holds a value for each of them."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.recall: dict[str, list[float]] = {}

    def _bias(self, layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
        bias = super()._bias(layer, parts, rotary)
        q, k, gates = (x[0] for x in layer.self_attn.indexer(parts.x, parts.latent, rotary))
        chosen = bias[0, 0] == 0
        for place in BLOCKS:
            page = int(k.shape[0] * place) // PAGE
            rows = slice(page * PAGE, (page + 1) * PAGE)
            votes = self.counts[-1][(page - DIGESTS) * PAGE : page * PAGE, :page].sum(0)
            for name, value in judge(q[rows], k, gates[rows], chosen[rows], votes, page, self.share).items():
                self.recall.setdefault(name, []).append(value)
        return bias


def judge(
    q: torch.Tensor,
    k: torch.Tensor,
    gates: torch.Tensor,
    chosen: torch.Tensor,
    votes: torch.Tensor,
    page: int,
    share: float,
) -> dict[str, float]:
    """Recall by rule of the 64 rows of one page.

    q [64, H, D], gates [64, H]; k [T, D]; chosen bool [64, T] exact selections; votes [page] how often the digests'
    queries selected each page.
    """
    before = page * PAGE
    found: dict[str, float] = {}

    def recall(worth: torch.Tensor, unit: int) -> float:
        """Of the units with the highest worth [64, units], the first one and the page before always among them."""
        units = before // unit
        listed = int((share * before - units) // unit)
        worth = worth.clone()
        worth[:, : PAGE // unit] = worth[:, units - PAGE // unit :] = float("inf")
        held = chosen[:, :before].view(PAGE, units, unit).sum(2).float()
        own = chosen[:, before:].sum(1)
        best = worth.topk(listed, 1).indices
        return float(((held.gather(1, best).sum(1) + own) / chosen.sum(1)).mean())

    for unit in UNITS:
        units = k[:before].view(-1, unit, k.shape[1])
        held = chosen[:, :before].view(PAGE, -1, unit).sum(2).float()
        found[f"best, units of {unit}"] = recall(held, unit)
        found[f"mean key in fp32, units of {unit}"] = recall(score(q, units.mean(1), gates), unit)
    means = k[:before].view(-1, PAGE, k.shape[1]).mean(1)
    by_mean = score(q, unpack_summary(pack_summary(means)), gates)
    found["mean key in fp8 (served, without votes)"] = recall(by_mean, PAGE)
    exact = score(q, k[:before], gates).view(PAGE, page, PAGE)
    found["true mean of the scores"] = recall(exact.mean(2), PAGE)
    found["true maximum of the scores"] = recall(exact.amax(2), PAGE)
    spread = (k[:before].view(page, PAGE, -1) - means.unsqueeze(1)).square().mean((1, 2)).sqrt()
    found["mean key and spread, expected ReLU"] = recall(expected(q, means, spread, gates), PAGE)
    products = torch.einsum("rhd,pd->rhp", q, means).relu() * gates.unsqueeze(-1)
    found["best head of the mean key"] = recall(products.amax(1), PAGE)
    found["votes of the digests alone"] = recall(votes.float().expand(PAGE, -1), PAGE)
    for forced in FORCED:
        worth = by_mean.clone()
        worth[:, votes.topk(forced).indices] = 1e30
        found[f"mean key, {forced} pages voted in"] = recall(worth, PAGE)
    centred = (by_mean - by_mean.mean(1, keepdim=True)) / by_mean.std(1, keepdim=True)
    for rows in SHARED:
        together = centred.view(-1, rows, page).mean(1).repeat_interleave(rows, 0)
        found[f"mean key, one shortlist for {rows} rows"] = recall(together, PAGE)
    return found


def expected(q: torch.Tensor, means: torch.Tensor, spread: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Expected scores [R, P] if a page's keys were normal about their mean [P, D] with one `spread [P]`."""
    centre = torch.einsum("rhd,pd->rhp", q, means)
    width = (q.norm(dim=-1).unsqueeze(-1) * spread).clamp(min=1e-9)
    at = centre / width
    density = at.square().mul(-0.5).exp() / math.sqrt(2 * math.pi)
    value = centre * torch.special.ndtr(at) + width * density
    return torch.einsum("rhp,rh->rp", value, gates)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--sequences", type=int, default=1)
    options = parser.parse_args()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    study = Study(options.share)
    for _ in range(options.sequences):
        loss_of(study, windows(text, 1, options.length + 1, generator)[0])
    found = {
        "schema": 1,
        "versions": {"torch": torch.__version__},
        "machine": {"threads": torch.get_num_threads(), "device": "cpu"},
        "length": options.length,
        "share": options.share,
        "sequences": options.sequences,
        "layers": NANO.num_hidden_layers,
        "rows": PAGE * len(BLOCKS),
        "recall": {name: round(sum(values) / len(values), 4) for name, values in study.recall.items()},
        "worst": {name: round(min(values), 4) for name, values in study.recall.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
