"""Two-level scoring in a real server: the same answers cold and warm, counted work, and what is refused."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sgl_indexcache.live.server import Server
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.settings import Scoring, SettingsError, load
from sgl_indexcache.sglang_port import two_level
from sgl_indexcache.sglang_port.refusals import RefusedError

from ..server import cpu_server, post, refusal

PATTERN = "FSF"
TOPK = 64
SETTINGS = f"pattern: {PATTERN}\nscoring: {{mode: two_level, shortlist: 384, recall_floor: 0.0, sample_rows: 32}}\n"
IDS = Random(3).choices(range(256), k=1300)
FLAGS = ["--max-running-requests", "4", "--skip-server-warmup", "--chunked-prefill-size", "512"]
FLAGS += ["--enable-return-indexer-topk"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_level") / "model"
    return write_random_model(folder, RandomModelSpec(layers=3, index_topk=TOPK))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    with cpu_server(folder, model, *FLAGS, settings=SETTINGS) as running:
        yield running


def generate(server: Server, ids: list[int], tenant: str) -> tuple[np.ndarray, int]:
    """Selections int32 [T, layers, k] of a prompt and three decoded tokens, and how many tokens were cached."""
    body = {
        "input_ids": ids,
        "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True},
        "return_indexer_topk": True,
        "extra_key": tenant,
    }
    meta = json.loads(post(server, "/generate", body))["meta_info"]
    flat = np.frombuffer(base64.b64decode(meta["indexer_topk"]), dtype=np.int32)
    return flat.reshape(len(ids) + 3, len(PATTERN), TOPK), meta["cached_tokens"]


@pytest.mark.engine
def test_cold_and_warm_turns_select_the_same(server: Server) -> None:
    """A turn on a cached prefix selects what a cold prefill of the same tokens does; tenants share nothing."""
    cold, cached = generate(server, IDS, "one")
    assert cached == 0
    assert generate(server, IDS[:700], "two")[1] == 0
    warm, cached = generate(server, IDS, "two")
    assert cached == 640
    # Rounding may turn a near-tie, for the forwards have other shapes.
    assert (warm[cached:] == cold[cached:]).all(-1).mean() > 0.98
    assert (cold[:, 1] == cold[:, 0]).all()  # a Shared layer is given its producer's


@pytest.mark.engine
def test_the_work_saved_and_the_recall_are_reported(server: Server) -> None:
    generate(server, IDS[::-1], "one")
    state = server.indexcache_state()
    assert state["scoring"] == "two_level"
    work = state["two_level"]
    assert work["rows"] > 0
    assert work["keys_scored"] + work["summaries_scored"] < 0.8 * work["keys_seen"]
    assert set(work["recall"]) == {"0", "2"}
    assert all(0.3 < recall < 1 for recall in work["recall"].values())
    assert work["fallbacks"] == {"0": 0, "2": 0}


def refused(**changes: Any) -> str:
    scoring = Scoring(
        mode="two_level", shortlist=changes.pop("shortlist", 0.25), decode_rows=changes.pop("decode_rows", None)
    )
    arguments = SimpleNamespace(
        page_size=changes.pop("page_size", 64), disaggregation_mode=changes.pop("disaggregation_mode", None)
    )
    device = changes.pop("device", "cpu")
    with pytest.raises(RefusedError) as error:
        two_level.check(arguments, scoring, device, SimpleNamespace(index_topk=2048, **changes))
    return str(error.value)


def test_refusals() -> None:
    assert "--page-size 64" in refused(page_size=1)
    assert "at least 2048" in refused(shortlist=1024)
    assert "--disaggregation-mode" in refused(device="cuda", disaggregation_mode="prefill")
    assert "window_pages" in refused(index_local_tokens=100)
    assert "a number of keys" in refused(device="cuda", decode_rows=8)
    accepted = Scoring(mode="two_level", shortlist=0.5, decode_rows=8)
    two_level.check(SimpleNamespace(page_size=64), accepted, "cpu", SimpleNamespace(index_topk=2048))
    exact = Scoring(shortlist=64)
    two_level.check(SimpleNamespace(page_size=1), exact, "cuda", SimpleNamespace(index_topk=2048))


def test_a_shortlist_that_is_neither_keys_nor_a_fraction() -> None:
    for value in ("2.5", "0", "63", "many"):
        with pytest.raises(SettingsError, match="SHORTLIST"):
            load(None, {"SGL_INDEXCACHE_SCORING__SHORTLIST": value})
    assert load(None, {"SGL_INDEXCACHE_SCORING__SHORTLIST": "4096"}).scoring.shortlist == 4096
    assert load(None, {"SGL_INDEXCACHE_SCORING__SHORTLIST": "0.5"}).scoring.shortlist == 0.5


def test_a_server_that_cannot_does_not_start(model: Path) -> None:
    variables = {"SGL_INDEXCACHE_SCORING__MODE": "two_level", "SGL_INDEXCACHE_SCORING__SHORTLIST": "64"}
    override = f'{{"index_topk": {TOPK + 1}}}'
    sentence = refusal(*("--model-path", str(model), "--json-model-override-args", override), timeout=200, **variables)
    assert "scoring.shortlist is 64 keys" in sentence
    assert "at least 65" in sentence
