"""Two-level scoring of the trained nano model through the real server: loss, measured recall, and work saved.

python -m sgl_indexcache.nano.two_level_served --data DIR --out FILE [--length 8000] [--shortlists 0.5] [--floors 0.9]
    [-- FLAGS]

Servers, one after the other, score the same windows of held-out text: one exactly, then one with two-level scoring for
every shortlist and floor. Their figures are those that /server_info reports to everybody. FLAGS are for the servers; a
CUDA device has no float32 kernels and needs `-- --dtype bfloat16`.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from sgl_indexcache.bench.child import device
from sgl_indexcache.launch import Server
from sgl_indexcache.nano.tasks import windows
from sgl_indexcache.nano.train import read_shard
from sgl_indexcache.nano.two_level import CHECKPOINT, SEED
from sgl_indexcache.search.engine import Engine
from sgl_indexcache.search.report import machine, versions

FLAGS = (
    *("--dtype", "float32", "--mem-fraction-static", "0.3", "--max-total-tokens", "20000", "--random-seed", "0"),
    *("--chunked-prefill-size", "2048", "--max-running-requests", "4", "--log-level", "warning"),
    "--skip-server-warmup",
)


def serve(scoring: dict[str, Any], prompts: list[list[int]], flags: list[str], folder: Path) -> dict[str, Any]:
    """Loss in nats of every prompt, seconds for each, and the server's counters."""
    settings = folder / "indexcache.yaml"
    settings.write_text(yaml.safe_dump({"scoring": scoring}))
    arguments = ["--model-path", str(CHECKPOINT.parent), "--config", str(settings), *FLAGS, *flags]
    with Server(arguments, folder / "server.log") as server:
        engine = Engine(server.url)
        engine.generate(prompts[0][:100], 1)
        losses, seconds = [], []
        for ids in prompts:
            begun = time.monotonic()
            losses.append(float(-engine.score(ids).mean()))
            seconds.append(round(time.monotonic() - begun, 2))
        return {
            "loss": round(statistics.fmean(losses), 5),
            "losses": [round(loss, 5) for loss in losses],
            "seconds": seconds,
            "work": server.indexcache_state()["two_level"],
        }


def compared(exact: dict[str, Any], served: dict[str, Any]) -> dict[str, float]:
    """Relative change of the loss, mean recall of the layers, and the share of keys and summaries that were scored."""
    work = served["work"]
    return {
        "loss_change": round(served["loss"] / exact["loss"] - 1, 6),
        "recall": round(statistics.fmean(work["recall"].values()), 4) if work["recall"] else float("nan"),
        "keys": round((work["keys_scored"] + work["summaries_scored"]) / work["keys_seen"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--length", type=int, default=8000, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument(
        "--shortlists", type=float, nargs="+", default=[0.5], help="fractions of the pages before a row"
    )
    parser.add_argument("--floors", type=float, nargs="+", default=[0.9], help="of the recall guard")
    parser.add_argument("flags", nargs="*", help="further flags of `sgl-indexcache serve`, after --")
    options = parser.parse_args()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    prompts = windows(text, options.prompts, options.length, generator).tolist()
    found: dict[str, Any] = {
        "schema": 2,
        "versions": versions(),
        "machine": {**machine(), **device()},
        "flags": options.flags,
        "length": options.length,
        "prompts": options.prompts,
        "two_level": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        found["exact"] = serve({"mode": "exact"}, prompts, options.flags, Path(folder))
        for shortlist, floor in itertools.product(options.shortlists, options.floors):
            scoring = {
                "mode": "two_level",
                "shortlist": shortlist,
                "recall_floor": floor,
                "sample_rows": 64,
                "min_saved_scores": 0,
            }
            served = serve(scoring, prompts, options.flags, Path(folder))
            found["two_level"].append({"scoring": scoring, **served, **compared(found["exact"], served)})
            line = {name: found["two_level"][-1][name] for name in ("loss_change", "recall", "keys")}
            print(f"shortlist {shortlist} floor {floor}: {line}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
