"""Which rule should choose the pages of a shortlist: recall, loss and needles of candidates on the nano model.

python -m sgl_indexcache.nano.two_level_study --data DIR --out FILE [--length 8192] [--share 0.25] [--sequences N]
    [--needles N] [--rules NAME ...]

--data is what `sgl_indexcache.nano.corpus` writes; the rules are those of page_rules.py. Every rule's selections are
used by the layers, so that errors of one layer reach the next. All keys are scored, and those outside the lists are
left out: the time says nothing about serving. Every rule lists so many pages that the last row scores `share` of its
keys, first level included, unless --pages gives their number; layers that a rule scores exactly come on top (`cost`).
The first page and the one before the row's own are always listed.

Recall is the share of the exact selection, by the queries and keys of the same forward, that the lists hold: the mean
over all rows whose list is not their whole context, and over the layers that are not scored exactly. Digests hold the
rule's own selections, as served. A needle is a fact asked for at the very end; with others of the same wording in the
same context that nobody asks for (`distractors`) or alone.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.indexer.shortlist import DIGESTS, Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.nano.evaluate import DEPTHS, digits_right
from sgl_indexcache.nano.model import Layer, Projections
from sgl_indexcache.nano.page_rules import ASIDE, RULES, Rule
from sgl_indexcache.nano.page_signals import Seen
from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.probes import DISTRACTORS
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.tasks import Batch, needle_batch, windows
from sgl_indexcache.nano.train import read_shard
from sgl_indexcache.nano.two_level import SEED, Served, loss_of
from sgl_indexcache.store.digest import WIDTH

SLICE = 1 << 27
"""Products of one slice of rows, which take four bytes each."""


class Study(Served):
    """The nano model with a rule's selections; one sequence of whole pages at a time, on any device.

    rule, pages  how pages are chosen, and how many
    measure      whether recall is measured
    recalls      [layers] lists of a recall for every row with a list, in order
    """

    def __init__(self) -> None:
        super().__init__()
        self.measure = False
        self.use(RULES["exact"], 0)

    def use(self, rule: Rule, pages: int) -> None:
        """Choose by this rule from now on, and forget what was measured."""
        self.rule, self.pages = rule, Shortlist(pages * PAGE).pages(1 << 40, NANO.index_topk)
        self.recalls: list[list[torch.Tensor]] = [[] for _ in range(NANO.num_hidden_layers)]
        self.hint: torch.Tensor | None = None

    def _bias(self, layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
        q, k, gates = (x[0] for x in layer.self_attn.indexer(parts.x, parts.latent, rotary))
        number, length = self._index[layer], k.shape[0]
        assert length % PAGE == 0
        if number == 0:
            self.hint = None
        bias = k.new_full((length, length + 1), float("-inf"))
        unit = self.rule.unit
        counts = k.new_zeros(length, length // unit)
        step = PAGE if self.rule.voted else max(PAGE, SLICE // (q.shape[1] * length) // PAGE * PAGE)
        for begin in range(0, length, step):
            rows = slice(begin, min(length, begin + step))
            picks = self._select(number, q[rows], k[: rows.stop], gates[rows], rows, counts)
            counts[rows] = count_units(picks, unit, counts.shape[1])
            bias[rows].scatter_(1, torch.where(picks < 0, length, picks), 0.0)
        if self.rule.fade and self.hint is not None:
            counts += self.rule.fade * self.hint
        self.hint = counts
        whole: torch.Tensor = bias[None, None, :, :length]
        return whole

    def _select(
        self, number: int, q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, rows: slice, counts: torch.Tensor
    ) -> torch.Tensor:
        """Selections int64 [R, <= topk] of some rows, -1 padded; k and counts [T, U] of all before, too."""
        rule, unit, each = self.rule, self.rule.unit, PAGE // self.rule.unit
        position = torch.arange(rows.start, rows.stop, device=k.device).unsqueeze(1)
        scores = score(q, k, gates)
        scores.masked_fill_(torch.arange(k.shape[0], device=k.device) > position, float("-inf"))
        exactly = rule.signal is None or number in rule.anchors
        exact = best(scores) if exactly or rule.knows or self.measure else None
        if exactly:
            assert exact is not None
            return exact
        units = k.shape[0] // unit
        by_unit = scores.view(-1, units, unit)
        own = position // PAGE * each
        at = torch.arange(units, device=k.device)
        held = None if exact is None else count_units(exact, unit, units)
        seen = Seen(
            q,
            gates,
            k.view(units, unit, -1),
            at < own,
            None if self.hint is None else self.hint[rows, :units],
            self.pages * each,
            by_unit,
            held,
        )
        worth = rule.worth(seen)
        forced = (at < each) | (at >= own - each)
        if rule.voted:
            forced |= voted(counts, rows.start // PAGE, rule.voted, units)
        worth = worth.masked_fill(forced & seen.allowed, float("inf"))
        worth, listed = worth.topk(min(seen.listed, units), 1)
        empty = torch.cat((worth == float("-inf"), torch.zeros_like(own, dtype=torch.bool).expand(-1, each)), 1)
        listed = torch.cat((listed, own + torch.arange(each, device=k.device)), 1)
        if self.measure:
            assert held is not None
            found = held.gather(1, listed).masked_fill(empty, 0.0).sum(1) / NANO.index_topk
            self.recalls[number].append(found[own[:, 0] > seen.listed])
        near = by_unit.gather(1, listed.unsqueeze(2).expand(-1, -1, unit)).masked_fill(
            empty.unsqueeze(2), float("-inf")
        )
        picks = best(near.flatten(1))
        place = listed.gather(1, picks.clamp(min=0) // unit) * unit + picks % unit
        return torch.where(picks < 0, -1, place)


def best(scores: torch.Tensor) -> torch.Tensor:
    """Columns int64 [R, <= topk] of the highest scores in no order, -1 where they are -inf."""
    found = scores.topk(min(NANO.index_topk, scores.shape[1]), 1, sorted=False)
    return found.indices.masked_fill(found.values == float("-inf"), -1)


def count_units(picks: torch.Tensor, unit: int, units: int) -> torch.Tensor:
    """How many of each row's picks, -1 padded, lie in each unit: float32 [R, units]."""
    counts = torch.zeros(picks.shape[0], units + 1, device=picks.device)
    place = torch.where(picks < 0, units, picks // unit)
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))[:, :units]


def voted(counts: torch.Tensor, page: int, width: int, pages: int) -> torch.Tensor:
    """bool [pages]: the `width` pages before `page` that the digests of the two before it name most.

    counts [T, pages], what each row selected.
    """
    total = counts.new_zeros(counts.shape[1])
    for before in range(max(0, page - DIGESTS), page):
        digest = counts[before * PAGE : (before + 1) * PAGE].sum(0).topk(min(WIDTH, total.numel()))
        total.scatter_add_(0, digest.indices, digest.values)
    found = torch.zeros_like(total, dtype=torch.bool)
    top = total[:page].topk(min(width, page))
    found[top.indices] = top.values > 0
    return found[:pages]


def needle_prompts(text: torch.Tensor, length: int, count: int, distractors: int) -> list[Batch]:
    """`count` needles over all families and depths, in a fixed order that mixes both; on the text's device."""
    generator = torch.Generator(text.device).manual_seed(SEED + length + distractors)
    tables = phrases(text.device)
    pairs = len(FAMILIES) * DEPTHS
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(SEED)).repeat(-(-count // pairs))
    found = []
    for pair in order[:count].tolist():
        depth = torch.tensor([pair // len(FAMILIES) / (DEPTHS - 1)])
        family = torch.tensor([pair % len(FAMILIES)])
        found.append(needle_batch(text, length, depth, family, distractors, tables, generator))
    return found


def moved(batch: Batch, device: torch.device) -> Batch:
    """The same on a device."""
    return Batch(*(tensor.to(device) for tensor in batch))


@torch.no_grad()
def run(
    model: Study, rule: Rule, pages: int, texts: list[torch.Tensor], asked: list[Batch]
) -> tuple[torch.Tensor, list[list[torch.Tensor]], list[bool]]:
    """A rule's loss float64 [texts, T], recall by layer and row, and which needles it finds."""
    device = model.lm_head.weight.device
    model.use(rule, pages)
    model.measure = True
    losses = torch.stack([loss_of(model, tokens.to(device)).cpu() for tokens in texts])
    recalls, model.measure = model.recalls, False
    right = [bool(digits_right(model, moved(batch, device), True)) for batch in asked]
    return losses, recalls, right


def recall_of(recalls: list[list[torch.Tensor]]) -> dict[str, Any]:
    """Means over rows; null for layers that are scored exactly."""
    layers = [torch.cat(rows) for rows in recalls if rows]
    if not any(rows.numel() for rows in layers):
        return {"recall": None, "recall_worst_layer": None, "recall_worst_percent": None, "recall_by_layer": None}
    by_layer = [round(float(torch.cat(rows).mean()), 4) if rows else None for rows in recalls]
    known = torch.stack([rows.mean() for rows in layers])
    return {
        "recall": round(float(known.mean()), 4),
        "recall_worst_layer": round(float(known.min()), 4),
        # The row than which one in a hundred is worse.
        "recall_worst_percent": round(float(torch.cat(layers).cpu().sort().values[sum(map(len, layers)) // 100]), 4),
        "recall_by_layer": by_layer,
    }


def judge(
    exact: tuple[torch.Tensor, list[bool]], losses: torch.Tensor, right: list[bool], split: int
) -> dict[str, Any]:
    """Loss against exact scoring, in all positions and in the last quarter; needles, the first `split` alone."""
    base, found = exact
    late = slice(losses.shape[1] * 3 // 4, None)

    def change(part: slice) -> float:
        return round(float(losses[:, part].mean() / base[:, part].mean() - 1), 6)

    def tally(part: slice) -> dict[str, int]:
        pairs = list(zip(found[part], right[part], strict=True))
        return {
            "asked": len(pairs),
            "exact": sum(e for e, _ in pairs),
            "found": sum(r for _, r in pairs),
            "lost": sum(e and not r for e, r in pairs),
        }

    return {
        "loss": round(float(losses.mean()), 5),
        "loss_change": change(slice(None)),
        "loss_change_last_quarter": change(late),
        "needles": {"0": tally(slice(0, split)), str(DISTRACTORS): tally(slice(split, None))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--length", type=int, default=8192, help="tokens, whole pages")
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--pages", type=int, help="list so many pages whatever the first level costs")
    parser.add_argument("--sequences", type=int, default=2, help="windows of held-out text")
    parser.add_argument("--needles", type=int, default=10, help="facts without, and as many with, distractors")
    parser.add_argument(
        "--rules", nargs="+", metavar="NAME", choices=RULES, default=[r for r in RULES if r not in ASIDE]
    )
    parser.add_argument("--tf32", action="store_true", help="let matrix products on a GPU round their inputs")
    options = parser.parse_args()
    if options.length % PAGE or options.sequences < 1:
        parser.error(f"--length must be a multiple of {PAGE}, and --sequences at least 1")
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    texts = [windows(text, 1, options.length + 1, generator)[0] for _ in range(options.sequences)]
    prompts = [p for d in (0, DISTRACTORS) for p in needle_prompts(text, options.length, options.needles, d)]
    model = Study().to(device)
    layers = NANO.num_hidden_layers
    found: dict[str, Any] = {
        "schema": 2,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "machine": {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "tf32": options.tf32},
        "model": {"topk": NANO.index_topk, "layers": layers},
        **{name: getattr(options, name) for name in ("length", "share", "sequences")},
        "rules": {},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    exact: tuple[torch.Tensor, list[bool]] | None = None
    for name in dict.fromkeys(("exact", *options.rules)):
        rule = RULES[name]
        begun = time.monotonic()
        pages = options.pages or rule.pages(options.share, options.length, layers)
        losses, recalls, right = run(model, rule, pages, texts, prompts)
        exact = exact or (losses, right)
        entry = {
            "pages": None if rule.signal is None else model.pages,
            "record_bytes": rule.record,
            "cost": round(rule.cost(model.pages, options.length, layers), 4),
            **recall_of(recalls),
            **judge(exact, losses, right, options.needles),
            "seconds": round(time.monotonic() - begun, 1),
        }
        found["rules"][name] = entry
        print(name, json.dumps(entry), flush=True)
        # What is known is on disk, should the rest take too long.
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
