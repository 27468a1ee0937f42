"""Two-level scoring of the trained nano model through the real server: loss, facts found, recall, and work saved.

python -m sgl_indexcache.nano served --data DIR --out FILE [--lengths 2000 8000] [--shortlists 0.5]
    [--floors 0.9] [--needles 28] [--decode-rows 1] [--continued 128] [-- FLAGS]

Servers, one after the other, score the same windows of held-out text and are asked for the same facts: one exactly,
then one with two-level scoring for every shortlist and floor. Their figures are those that /server_info reports to
everybody. A fact is asked for at the very end of its prompt, alone and among seven others, and counts as found when the
greedy answer begins with its digits: the first digit is chosen by the prompt's last row, the others by decode steps.
What was counted while the windows are continued is nearly all of decode steps, if the cache has room for all windows
(`-- --max-total-tokens`). FLAGS are for the servers; a CUDA device has no float32 kernels and needs
`-- --dtype bfloat16`.
"""

import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml

from sgl_indexcache.errors import UserError
from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.needles import Needle
from sgl_indexcache.live.server import Server
from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.studies.trained import SEED
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.tasks import needle_batch, windows
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.served/5"
FLAGS = (
    *("--dtype", "float32", "--mem-fraction-static", "0.3", "--max-total-tokens", "20000", "--random-seed", "0"),
    *("--chunked-prefill-size", "2048", "--max-running-requests", "4", "--log-level", "warning"),
    "--skip-server-warmup",
)
DISTRACTORS = {"alone": 0, "among_others": 7}
"""Other facts of the same phrase in the prompt, by name in the results."""
LENGTHS = [8000]
SHORTLISTS = ["0.5"]
FLOORS = [0.9]


@dataclass(frozen=True, slots=True)
class Tasks:
    """What every server is given at one length: windows of text, how many tokens to continue each by, and facts by the
    names of DISTRACTORS."""

    length: int
    prompts: list[list[int]]
    continued: int
    facts: dict[str, list[Needle]]

    @classmethod
    def draw(cls, text: torch.Tensor, length: int, prompts: int, continued: int, facts: int) -> "Tasks":
        """Of text uint8 [bytes]; the same for the same arguments."""
        generator = torch.Generator().manual_seed(SEED)
        drawn = windows(text, prompts, length, generator).tolist()
        questions = {name: facts_of(text, length, facts, others) for name, others in DISTRACTORS.items()}
        return cls(length, drawn, continued, questions)


def facts_of(text: torch.Tensor, length: int, count: int, others: int) -> list[Needle]:
    """Prompts of nearly `length` tokens that end where the digits of a fact begin; its depth and phrase vary."""
    generator = torch.Generator().manual_seed(SEED + 1 + others)
    needles = []
    for number in range(count):
        depth = torch.tensor([number / max(1, count - 1)])
        family = torch.tensor([number % len(FAMILIES)])
        batch = needle_batch(text, length, depth, family, others, phrases(text.device), generator)
        digits = batch.digits[0].nonzero()[:, 0]
        answer = batch.targets[0, digits].tolist()
        needles.append(Needle(batch.tokens[0, : int(digits[0]) + 1].tolist(), answer, len(answer)))
    return needles


def serve(scoring: dict[str, Any], tasks: list[Tasks], flags: list[str], folder: Path) -> list[dict[str, Any]]:
    """By length: loss in nats of every prompt and seconds for each; facts found; and what was counted while prompts
    were scored, while they were continued, and while facts were asked for."""
    settings = folder / "indexcache.yaml"
    settings.write_text(yaml.safe_dump({"scoring": scoring}))
    arguments = ["--model-path", str(CHECKPOINT), "--config", str(settings), *FLAGS, *flags]
    results = []
    with Server(arguments, folder / "server.log") as server:
        engine = Engine(server.url)
        engine.generate(tasks[0].prompts[0][:100], 1)
        for task in tasks:
            before = server.indexcache_state()["two_level"]
            losses, seconds = [], []
            for ids in task.prompts:
                begun = time.monotonic()
                losses.append(float(-engine.score(ids).mean()))
                seconds.append(round(time.monotonic() - begun, 2))
            scored = server.indexcache_state()["two_level"]
            for ids in task.prompts if task.continued else ():
                engine.generate(ids, task.continued)
            continued = server.indexcache_state()["two_level"]
            facts = {name: [fact.ask(engine) for fact in facts] for name, facts in task.facts.items()}
            answered = server.indexcache_state()["two_level"]
            results.append(
                {
                    "length": task.length,
                    "loss": round(statistics.fmean(losses), 5),
                    "losses": [round(loss, 5) for loss in losses],
                    "seconds": seconds,
                    "work": between(before, scored),
                    "continued": between(scored, continued),
                    "asked": between(continued, answered),
                    "facts": facts,
                }
            )
    return results


def between(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was counted from one snapshot of TwoLevelWork to a later one; None where scoring is exact."""
    if before is None or after is None:
        return None
    work: dict[str, Any] = {}
    for name, now in after.items():
        if name == "recall":
            continue
        earlier = before[name]
        work[name] = (
            {layer: now[layer] - earlier.get(layer, 0) for layer in now} if isinstance(now, dict) else now - earlier
        )
    work["recall"] = {
        layer: round(
            (after["recall"][layer] * after["sampled_rows"][layer] - _hits(before, layer))
            / work["sampled_rows"][layer],
            5,
        )
        for layer in after["recall"]
        if work["sampled_rows"][layer]
    }
    return work


def _hits(work: dict[str, Any], layer: str) -> float:
    return float(work["recall"].get(layer, 0.0) * work["sampled_rows"].get(layer, 0))


def compared(exact: dict[str, Any], served: dict[str, Any]) -> dict[str, Any]:
    """Relative change of the loss and its standard error over prompts, mean recall of the layers, the share of keys and
    summaries that were scored, and facts found of those that exact scoring finds."""
    work = served["work"]
    changes = [now / base - 1 for now, base in zip(served["losses"], exact["losses"], strict=True)]
    return {
        "loss_change": round(served["loss"] / exact["loss"] - 1, 6),
        "loss_change_error": round(statistics.stdev(changes) / len(changes) ** 0.5, 6) if len(changes) > 1 else None,
        "recall": _mean_recall(work),
        "keys": round((work["keys_scored"] + work["summaries_scored"]) / work["keys_seen"], 4),
        "continued_recall": _mean_recall(served["continued"]),
        "found": {
            name: f"{sum(a and b for a, b in zip(solved, served['facts'][name], strict=True))} of {sum(solved)}"
            for name, solved in exact["facts"].items()
        },
    }


def _mean_recall(work: dict[str, Any] | None) -> float | None:
    return round(statistics.fmean(work["recall"].values()), 4) if work and work["recall"] else None


def _size(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise UserError(f"{text!r} is no size of a list: write keys, as in 1856, or a fraction, as in 0.5") from None


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE")],
    flags: Annotated[
        list[str] | None, typer.Argument(help="Further flags of `sgl-indexcache serve`, after --.")
    ] = None,
    lengths: Annotated[list[int], typer.Option("--lengths", help="Tokens of a prompt.")] = LENGTHS,
    prompts: Annotated[int, typer.Option("--prompts", help="Windows of text of each length.")] = 2,
    needles: Annotated[int, typer.Option("--needles", help="Facts of each length, alone and among others.")] = 0,
    shortlists: Annotated[
        list[str], typer.Option("--shortlists", help="Keys, or fractions of the pages before a row.")
    ] = SHORTLISTS,
    floors: Annotated[list[float], typer.Option("--floors", help="Of the recall guard.")] = FLOORS,
    decode_rows: Annotated[
        int | None, typer.Option("--decode-rows", help="scoring.decode_rows of the servers; needs shortlists in keys.")
    ] = None,
    continued: Annotated[
        int, typer.Option("--continued", metavar="TOKENS", help="By which each window is continued.")
    ] = 0,
    sample_rows: Annotated[int, typer.Option("--sample-rows", help="scoring.sample_rows of the servers.")] = 64,
) -> None:
    """Two-level scoring through the real server: loss, facts found, recall, and work saved.

    \b
    python -m sgl_indexcache.nano served --data DIR --out FILE --lengths 2000 8000 -- --dtype bfloat16
    """
    sizes = [_size(text) for text in shortlists]
    if decode_rows is not None and any(isinstance(size, float) for size in sizes):
        raise typer.BadParameter("--decode-rows needs shortlists of one size: give --shortlists in keys, such as 1856")
    flags = flags or []
    text = read_shard(data, "heldout", torch.device("cpu"))
    tasks = [Tasks.draw(text, length, prompts, continued, needles) for length in lengths]
    document: dict[str, Any] = {
        "flags": flags,
        "prompts": prompts,
        "two_level": [],
    }

    def write() -> None:
        write_json(out, SCHEMA, document, on_device=True)

    with tempfile.TemporaryDirectory() as folder:
        document["exact"] = serve({"mode": "exact"}, tasks, flags, Path(folder))
        for shortlist, floor in itertools.product(sizes, floors):
            scoring = {
                "mode": "two_level",
                "shortlist": shortlist,
                "recall_floor": floor,
                "sample_rows": sample_rows,
                "decode_rows": decode_rows,
                "min_saved_scores": 0,
            }
            served = serve(scoring, tasks, flags, Path(folder))
            for base, now in zip(document["exact"], served, strict=True):
                figures = compared(base, now)
                document["two_level"].append({"scoring": scoring, **now, **figures})
                print(f"{now['length']} shortlist {shortlist} floor {floor}: {figures}", flush=True)
            # A server takes a minute to start: what is known is on disk.
            write()
