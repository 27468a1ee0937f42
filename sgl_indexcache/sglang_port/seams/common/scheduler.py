"""Seam: which snapshots the rows of a forward read and write, settled where requests become a forward.

`ForwardBatch.init_new` (model_executor/forward_batch_info.py:706) runs on the forward stream, in the scheduler's
thread, right before the forward, and is the only place that sees both the requests and the forward. Whatever weights
the next forward may have, it must not read what others selected: an update of weights without a flush forgets
snapshots and page records too.
"""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BOTH, BrokenSeamError, Hook, Seam
from sgl_indexcache.store import RequestRows


def _after(forward_batch: Any, cls: Any, batch: Any, model_runner: Any, *args: Any, **kwargs: Any) -> Any:
    store = runtime.current.store
    if store is not None and not model_runner.is_draft_worker:
        # Both may keep a prefill from running in a graph, whose padding rounds otherwise.
        kind = (forward_batch.return_logprob, forward_batch.capture_hidden_mode)
        follow = store.follows_decode or not batch.forward_mode.is_decode()
        store.begin(rows_of(batch, runtime.current.tree, kind) if follow else [], len(batch.reqs))
    return forward_batch


def rows_of(batch: Any, tree: runtime.Tree | None, kind: Hashable = None) -> list[RequestRows]:
    """The rows of SGLang's ScheduleBatch, request by request; `tree` is None while there is none (warm-up)."""
    if batch.forward_mode.is_idle():
        return []
    if batch.forward_mode.is_decode():
        lengths = batch.seq_lens if batch.seq_lens_cpu is None else batch.seq_lens_cpu
        return [
            RequestRows(req.req_pool_idx, req.rid, length - 1, length)
            for req, length in zip(batch.reqs, lengths.tolist(), strict=True)
            if _plain(req)
        ]
    decoding = {id(req) for req in batch.decoding_reqs or ()}
    listed = []
    for req, start, rows in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True):
        if not _plain(req):
            continue
        prefill = id(req) not in decoding
        one = RequestRows(req.req_pool_idx, req.rid, start, start + rows, prefill, kind=kind)
        # The last node ends where these rows begin: only then its tails are theirs.
        if prefill and tree is not None and 0 < start == req.cache_protected_len:
            window = req.get_fill_ids()[start : start + min(rows, tree.page_size)]
            one = replace(one, tokens=window, tails=tree.tails_after(req.last_node))
        listed.append(one)
    return listed


def _plain(req: Any) -> bool:
    """Whether the tokens say everything about the request's KV."""
    return req.input_embeds is None and req.positional_embed_overrides is None and req.multimodal_inputs is None


def _forget(result: Any, *args: Any, **kwargs: Any) -> Any:
    if runtime.current.tree is not None:
        runtime.current.tree.forget()
    backend = runtime.current.backend
    if backend is not None and backend.two_level is not None:
        backend.two_level.forget()
    return result


def _probe() -> str:
    """What decides how a forward is run can be read off it."""
    from dataclasses import fields

    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    names = {field.name for field in fields(ForwardBatch)}
    for name in ("return_logprob", "capture_hidden_mode"):
        if name not in names:
            raise BrokenSeamError(f"ForwardBatch has no field {name}")
    return "every forward is told which snapshots its rows read and write"


_UPDATER = "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager"

SEAM = Seam(
    name="scheduler",
    purpose="tell every forward which snapshots its rows read and write",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
            "after",
            _after,
            parameters=("batch", "model_runner"),
        ),
        *(
            Hook(f"{_UPDATER}.update_weights_from_{source}", "after", _forget, parameters=("self", "recv_req"))
            for source in ("disk", "distributed", "tensor", "ipc")
        ),
    ),
    probe=_probe,
)
