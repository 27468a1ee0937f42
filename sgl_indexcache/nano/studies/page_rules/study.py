"""Rules that choose the pages of a list, measured end to end on the trained model: recall, loss and needles.

python -m sgl_indexcache.nano page-rules --data DIR --out FILE [--length 8192] [--share 0.25] [--sequences N]
    [--needles N] [--rules NAME ...]

--data is what the command `corpus` writes; the rules are those of rules.py. Every rule's selections are
used by the layers, so that errors of one layer reach the next. All keys are scored, and those outside the lists are
left out: the time says nothing about serving. Every rule lists so many pages that the last row scores `share` of its
keys, first level included, unless --pages gives their number; layers that a rule scores exactly come on top (`cost`).
The first page and the one before the row's own are always listed.

Recall is the share of the exact selection, by the queries and keys of the same forward, that the lists hold: the mean
over all rows whose list is not their whole context, and over the layers that are not scored exactly. Digests hold the
rule's own selections. A needle is a fact asked for at the very end, alone or among others of the same wording
(`distractors`).
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.errors import UserError
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.nano.model import Layer, Projections
from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.studies.page_rules.digests import elect
from sgl_indexcache.nano.studies.page_rules.rules import ASIDE, RULES, Rule
from sgl_indexcache.nano.studies.page_rules.signals import Candidates
from sgl_indexcache.nano.studies.probes import DISTRACTORS
from sgl_indexcache.nano.studies.trained import SEED, TrainedModel, count_units, loss_of
from sgl_indexcache.nano.training.device import default_device
from sgl_indexcache.nano.training.measures import DEPTHS, digits_right
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.tasks import Batch, needle_batch, windows
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.page_rules/3"
SLICE = 1 << 27
"""Products of one slice of rows, which take four bytes each."""


class Study(TrainedModel):
    """The trained model with a rule's selections; one sequence of whole pages at a time, on any device.

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
        number, length = self.layer_ids[layer], k.shape[0]
        assert length % PAGE == 0
        if number == 0:
            self.hint = None
        bias = k.new_full((length, length + 1), float("-inf"))
        unit = self.rule.unit
        counts = k.new_zeros(length, length // unit)
        step = PAGE if self.rule.votes else max(PAGE, SLICE // (q.shape[1] * length) // PAGE * PAGE)
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
        exact = best(scores) if exactly or rule.oracle or self.measure else None
        if exactly:
            assert exact is not None
            return exact
        units = k.shape[0] // unit
        by_unit = scores.view(-1, units, unit)
        own = position // PAGE * each
        at = torch.arange(units, device=k.device)
        exact_counts = None if exact is None else count_units(exact, unit, units)
        inputs = Candidates(
            q,
            gates,
            k.view(units, unit, -1),
            at < own,
            None if self.hint is None else self.hint[rows, :units],
            self.pages * each,
            by_unit,
            exact_counts,
        )
        worth = rule.worth(inputs)
        forced = (at < each) | (at >= own - each)
        if rule.votes:
            forced |= elect(counts, rows.start // PAGE, rule.votes, units)
        worth = worth.masked_fill(forced & inputs.allowed, float("inf"))
        worth, listed = worth.topk(min(inputs.list_units, units), 1)
        empty = torch.cat((worth == float("-inf"), torch.zeros_like(own, dtype=torch.bool).expand(-1, each)), 1)
        listed = torch.cat((listed, own + torch.arange(each, device=k.device)), 1)
        if self.measure:
            assert exact_counts is not None
            recall = exact_counts.gather(1, listed).masked_fill(empty, 0.0).sum(1) / NANO.index_topk
            self.recalls[number].append(recall[own[:, 0] > inputs.list_units])
        near = by_unit.gather(1, listed.unsqueeze(2).expand(-1, -1, unit)).masked_fill(
            empty.unsqueeze(2), float("-inf")
        )
        picks = best(near.flatten(1))
        place = listed.gather(1, picks.clamp(min=0) // unit) * unit + picks % unit
        return torch.where(picks < 0, -1, place)


def best(scores: torch.Tensor) -> torch.Tensor:
    """Columns int64 [R, <= topk] of the highest scores in no order, -1 where they are -inf."""
    top = scores.topk(min(NANO.index_topk, scores.shape[1]), 1, sorted=False)
    return top.indices.masked_fill(top.values == float("-inf"), -1)


def needle_prompts(text: torch.Tensor, length: int, count: int, distractors: int) -> list[Batch]:
    """`count` needles over all families and depths, in a fixed order that mixes both; on the text's device."""
    generator = torch.Generator(text.device).manual_seed(SEED + length + distractors)
    tables = phrases(text.device)
    pairs = len(FAMILIES) * DEPTHS
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(SEED)).repeat(-(-count // pairs))
    prompts = []
    for pair in order[:count].tolist():
        depth = torch.tensor([pair // len(FAMILIES) / (DEPTHS - 1)])
        family = torch.tensor([pair % len(FAMILIES)])
        prompts.append(needle_batch(text, length, depth, family, distractors, tables, generator))
    return prompts


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same there."""
    return Batch(*(tensor.to(device) for tensor in batch))


@torch.no_grad()
def run(
    model: Study, rule: Rule, pages: int, texts: list[torch.Tensor], prompts: list[Batch]
) -> tuple[torch.Tensor, list[list[torch.Tensor]], list[bool]]:
    """A rule's loss float64 [texts, T], recall by layer and row, and which needles it finds."""
    device = model.lm_head.weight.device
    model.use(rule, pages)
    model.measure = True
    losses = torch.stack([loss_of(model, tokens.to(device)).cpu() for tokens in texts])
    recalls, model.measure = model.recalls, False
    right = [bool(digits_right(model, on_device(batch, device), True)) for batch in prompts]
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
    base, exact_right = exact
    late = slice(losses.shape[1] * 3 // 4, None)

    def change(part: slice) -> float:
        return round(float(losses[:, part].mean() / base[:, part].mean() - 1), 6)

    def tally(part: slice) -> dict[str, int]:
        pairs = list(zip(exact_right[part], right[part], strict=True))
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


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE")],
    length: Annotated[int, typer.Option("--length", help="Tokens, whole pages.")] = 8192,
    share: Annotated[float, typer.Option("--share", help="Of its keys that the last row scores.")] = 0.25,
    pages: Annotated[
        int | None, typer.Option("--pages", help="List so many pages whatever the first level costs.")
    ] = None,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="Windows of held-out text.")] = 2,
    needles: Annotated[int, typer.Option("--needles", help="Facts alone, and as many among others.")] = 10,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", metavar="NAME ...", help="Default: all but rules.ASIDE."),
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let matrix products on a GPU round their inputs.")] = False,
) -> None:
    """Measure rules that choose the pages of a list: recall, loss and facts found, on any device."""
    if length % PAGE:
        raise typer.BadParameter(f"--length must be a multiple of {PAGE}")
    rules = rules or [name for name in RULES if name not in ASIDE]
    if unknown := [name for name in rules if name not in RULES]:
        raise UserError(f"no rule is called {unknown[0]!r}: use some of {', '.join(RULES)}")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    device = default_device()
    text = read_shard(data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    texts = [windows(text, 1, length + 1, generator)[0] for _ in range(sequences)]
    prompts = [p for d in (0, DISTRACTORS) for p in needle_prompts(text, length, needles, d)]
    model = Study().to(device)
    layers = NANO.num_hidden_layers
    document: dict[str, Any] = {
        "tf32": tf32,
        "model": {"topk": NANO.index_topk, "layers": layers},
        "length": length,
        "share": share,
        "sequences": sequences,
        "rules": {},
    }
    exact: tuple[torch.Tensor, list[bool]] | None = None
    for name in dict.fromkeys(("exact", *rules)):
        rule = RULES[name]
        begun = time.monotonic()
        listed = pages or rule.pages(share, length, layers)
        losses, recalls, right = run(model, rule, listed, texts, prompts)
        exact = exact or (losses, right)
        entry = {
            "pages": None if rule.signal is None else model.pages,
            "record_bytes": rule.record,
            "cost": round(rule.cost(model.pages, length, layers), 4),
            **recall_of(recalls),
            **judge(exact, losses, right, needles),
            "seconds": round(time.monotonic() - begun, 1),
        }
        document["rules"][name] = entry
        print(name, json.dumps(entry), flush=True)
        # What is known is on disk, should the rest take too long.
        write_json(out, SCHEMA, document, on_device=True)
