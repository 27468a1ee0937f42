"""Two-level scoring of the trained nano model through the real server: loss, measured recall, and work saved.

python -m sgl_indexcache.nano.two_level_served --data DIR --out FILE [--length 8000] [--shortlist 0.5] [--floor 0.9]

Two servers, one after the other, score the same windows of held-out text: one exactly, one with two-level scoring. The
second one's figures are those that /server_info reports to everybody.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from sgl_indexcache.launch import Server
from sgl_indexcache.nano.tasks import windows
from sgl_indexcache.nano.train import read_shard
from sgl_indexcache.nano.two_level import CHECKPOINT, SEED
from sgl_indexcache.search.engine import Engine

FLAGS = (
    *("--dtype", "float32", "--mem-fraction-static", "0.3", "--max-total-tokens", "20000", "--random-seed", "0"),
    *("--chunked-prefill-size", "2048", "--max-running-requests", "4", "--log-level", "warning"),
    "--skip-server-warmup",
)


def serve(scoring: dict[str, Any], prompts: list[list[int]], folder: Path) -> dict[str, Any]:
    """Mean loss in nats of the prompts, seconds for each, and the server's counters."""
    settings = folder / "indexcache.yaml"
    settings.write_text(yaml.safe_dump({"scoring": scoring}))
    arguments = ["--model-path", str(CHECKPOINT.parent), "--config", str(settings), *FLAGS]
    with Server(arguments, folder / "server.log") as server:
        engine = Engine(server.url)
        engine.generate(prompts[0][:100], 1)
        losses, seconds = [], []
        for ids in prompts:
            begun = time.monotonic()
            losses.append(float(-engine.score(ids).mean()))
            seconds.append(round(time.monotonic() - begun, 2))
        return {
            "loss": round(sum(losses) / len(losses), 5),
            "seconds": seconds,
            "work": server.indexcache_state()["two_level"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--length", type=int, default=8000, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--shortlist", type=float, default=0.5, help="fraction of the pages before a row")
    parser.add_argument("--floor", type=float, default=0.9)
    options = parser.parse_args()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(SEED)
    prompts = windows(text, options.prompts, options.length, generator).tolist()
    scoring = {
        "mode": "two_level",
        "shortlist": options.shortlist,
        "recall_floor": options.floor,
        "sample_rows": 64,
        "min_saved_scores": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        exact = serve({"mode": "exact"}, prompts, Path(folder))
        two_level = serve(scoring, prompts, Path(folder))
    work = two_level["work"]
    found = {
        "schema": 1,
        "versions": {"torch": torch.__version__},
        "machine": {"device": "cpu"},
        "length": options.length,
        "prompts": options.prompts,
        "scoring": scoring,
        "exact": exact,
        "two_level": two_level,
        "loss_change": round(two_level["loss"] / exact["loss"] - 1, 6),
        "recall": round(sum(work["recall"].values()) / max(1, len(work["recall"])), 4),
        "keys": round((work["keys_scored"] + work["summaries_scored"]) / work["keys_seen"], 4),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
