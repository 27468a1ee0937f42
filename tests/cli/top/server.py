"""A small server that answers as told, for `sgl-indexcache top`."""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.telemetry.readings import Reader, Sources, spelled
from sgl_indexcache.telemetry.two_level import LayerRecall, TwoLevelWork
from sgl_indexcache.telemetry.work import IndexerWork

TOP = [sys.executable, "-m", "sgl_indexcache.cli", "top"]
PATTERN = "FSSFSS"
METRICS = """# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 1.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 1000.0
sglang:cached_tokens_total{model_name="m"} 900.0
sglang:generation_tokens_total{model_name="m"} 50.0
# TYPE sglang:time_to_first_token_seconds histogram
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 5.0
sglang:time_to_first_token_seconds_bucket{le="0.2",model_name="m"} 10.0
sglang:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 10.0
sglang:time_to_first_token_seconds_count{model_name="m"} 10.0
sglang:time_to_first_token_seconds_sum{model_name="m"} 1.0
"""


class Server:
    """Answers of a server, by path; each may be changed while it runs. Counts what it was asked."""

    def __init__(self) -> None:
        self.work = IndexerWork(full_rows=100, full_keys=10_000, shared_rows=200, shared_keys=20_000)
        self.two_level = TwoLevelWork(rows=60, exact_rows=40, exact_keys=2_000, keys_seen=10_000, keys_scored=6_000)
        self.two_level.layers[0] = LayerRecall(rows=4, expected=256, held=250)
        self.two_level.layers[3] = LayerRecall(rows=4, expected=256, held=200)
        self.events: dict[str, str] | None = None
        self.model = "some-model"
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, Callable[[], tuple[int, str]]] = {
            "/server_info": lambda: (200, json.dumps(self.info())),
            "/metrics": lambda: (200, METRICS),
        }

    def info(self) -> dict[str, Any]:
        records = SimpleNamespace(used_bytes=4096, valid_pages=7, pages=10)
        backend = SimpleNamespace(
            work=self.work,
            two_level=SimpleNamespace(work=self.two_level, records=records),
            kernels={("prefill", "indexer"): "ours", ("decode", "indexer"): "sglang"},
        )
        store = type("S", (), {"snapshot": lambda _: {"held": 3, "live": 1, "free": 4, "lookups": 4, "hits": 3}})()
        found = Sources(backend=backend, pattern=Pattern(PATTERN), store=store, recall_floor=0.9)
        state = {
            "version": "0.1",
            "pattern": PATTERN,
            "scoring": "two_level",
            "telemetry": {"metrics": spelled(Reader().read(found)), "events": self.events},
        }
        return {"served_model_name": self.model, "internal_states": [{"indexcache": state}]}
