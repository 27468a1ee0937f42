"""SGLang's radix tree with our records, driven as its scheduler drives it, without a model.

A plain function stands in for the model: which selection a row gets follows from the tokens up to it, the tenant and
the weights, and is never looked up. Whatever the store hands out is compared with it.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from sgl_indexcache.store import IndexStore, Pool, RequestRows, SnapshotSlots, WholePrefillStore
from sgl_indexcache.store.check import check
from sgl_indexcache.store.pool import slot_bytes

PAGE, TOPK, LAYERS, KV, REQUESTS = 4, 3, (0, 2), 96, 8


def selection(tenant: str | None, tokens: tuple[int, ...], weights: int, layer: int) -> list[int]:
    """What the row of the last token selects: up to TOPK positions it sees, ascending, -1 padded."""
    draw = Random(repr((tenant, tokens, weights, layer)))
    picks = sorted(draw.sample(range(len(tokens)), min(TOPK, len(tokens))))
    return picks + [-1] * (TOPK - len(picks))


def shuffled(picks: list[int], *forward: Any) -> list[int]:
    """The same positions in an order that only the very same forward gives."""
    real = [pick for pick in picks if pick >= 0]
    Random(repr((picks, forward))).shuffle(real)
    return real + [-1] * (len(picks) - len(real))


class Allocator:
    """KV slots, each free or in use; freeing one twice is an error."""

    def __init__(self) -> None:
        self.device = "cpu"
        self.page_size = PAGE
        self.clear()

    def clear(self) -> None:
        self.free_pages = list(range(KV // PAGE))

    def available_size(self) -> int:
        return len(self.free_pages) * PAGE

    def page(self) -> int:
        return self.free_pages.pop(0)

    def free_segment(self, slots: torch.Tensor, start_pos: int) -> None:
        for page in {int(slot) // PAGE for slot in slots}:
            assert page not in self.free_pages, "a KV page is freed twice"
            self.free_pages.append(page)

    def free_segments(self, segments: list[tuple[torch.Tensor, int]]) -> None:
        self.free_segment(torch.cat([slots for slots, _ in segments]), 0)


@dataclass(eq=False)
class Request:
    """What the tree and the seam read of SGLang's Req, and the tokens that have KV."""

    rid: str
    origin_input_ids: Any
    extra_key: str | None
    output_ids: Any = field(default_factory=lambda: array("q"))
    req_pool_idx: int | None = None
    last_node: Any = None
    cache_protected_len: int = 0
    prefix_indices: Any = None
    computed: int = 0
    priority: int = 0

    @property
    def tokens(self) -> Any:
        return self.origin_input_ids + self.output_ids

    @property
    def full_untruncated_fill_ids(self) -> Any:
        return self.tokens

    @property
    def extend_range(self) -> Any:
        return SimpleNamespace(end=self.computed)

    def get_fill_ids(self) -> Any:
        return self.tokens[: self.computed]


class Simulation:
    """One scheduler: tree, store, KV pool and running requests.

    `settled` is the share of rows that could not be decided otherwise; None: there are no margins, and only the very
    same prefill may be served.
    """

    def __init__(self, slots: int, settled: float | None = 0.8) -> None:
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams

        from sgl_indexcache.sglang_port.seams.common.radix import tree_class

        self.allocator = Allocator()
        self.table = torch.zeros(REQUESTS, KV * 2, dtype=torch.int32)
        pool = SimpleNamespace(req_to_token=self.table, write=self._write)
        records = Pool(slots * slot_bytes(len(LAYERS), PAGE, TOPK), len(LAYERS), PAGE, TOPK)
        self.store: SnapshotSlots
        if settled is None:
            self.store = WholePrefillStore(records, LAYERS)
        else:
            self.store = IndexStore(records, LAYERS, REQUESTS, 0.5)
        params = CacheInitParams(
            disable=False, req_to_token_pool=pool, token_to_kv_pool_allocator=self.allocator, page_size=PAGE
        )
        self.tree = tree_class()(params, self.store)
        self.running: list[Request] = []
        self.names = 0
        self.weights = 0
        self.settled = settled
        self.draw = Random(0)
        self.decisions: list[Any] = []
        self.served = Counter[str]()

    def _write(self, where: tuple[int, slice], values: torch.Tensor) -> None:
        self.table[where] = values.int()

    # --- what a scheduler does ---

    def admit(self, tokens: list[int], tenant: str | None, chunk: int) -> Request | None:
        """Match, lock, and prefill in chunks of whole pages; None when there is no room."""
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams
        from sglang.srt.mem_cache.radix_cache import RadixKey

        if len(self.running) >= REQUESTS - 1:
            return None
        request = Request(f"r{self.names}", array("q", tokens), tenant)
        self.names += 1
        key = RadixKey(request.origin_input_ids, tenant, limit=len(tokens) - 1)
        match = self.tree.match_prefix(MatchPrefixParams(key=key))
        cached = len(match.device_indices)
        self.tree.inc_lock_ref(match.last_device_node)
        need = -(-(len(tokens) - cached) // PAGE) * PAGE
        if self.allocator.available_size() < need:
            self.tree.evict(EvictParams(num_tokens=need - self.allocator.available_size()))
        if self.allocator.available_size() < need:
            self.tree.dec_lock_ref(match.last_device_node)
            return None
        taken = {other.req_pool_idx for other in self.running}
        request.req_pool_idx = next(index for index in range(1, REQUESTS) if index not in taken)
        request.last_node, request.cache_protected_len, request.computed = match.last_device_node, cached, cached
        self.table[request.req_pool_idx, :cached] = match.device_indices.int()
        self.running.append(request)
        while request.computed < len(tokens):
            rows = min(chunk, len(tokens) - request.computed)
            self.forward([(request, rows)])
            self.tree.cache_unfinished_req(request, chunked=request.computed < len(tokens))
        return request

    def decode(self, requests: list[Request], token: int) -> None:
        """One more token of each request that has room."""
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams

        going = []
        for request in requests:
            if request.computed % PAGE == 0 and not self.allocator.available_size():
                self.tree.evict(EvictParams(num_tokens=PAGE))
            if request.computed % PAGE or self.allocator.available_size():
                request.output_ids.append(token)
                self._slots(request, 1)
                going.append((request, 1))
        self.forward(going, slots=False, prefill=False)

    def finish(self, request: Request, *, insert: bool = True, overlap: bool = False) -> None:
        """The request is done, aborted or retracted; with `overlap` the next forward still has a row of it."""
        committed = request.computed
        if overlap:
            self._begin([RequestRows(request.req_pool_idx, request.rid, committed, committed + 1)])
            self._rows([(request, committed, committed + 1)], extra=9)
        self.tree.cache_finished_req(request, is_insert=insert, kv_len_to_handle=committed)
        self.running.remove(request)
        request.req_pool_idx = None

    def update_weights(self) -> None:
        """Other weights without a flush: the KV stays, and the selections of old rows are no one's any more."""
        self.weights += 1
        self.tree.forget()

    def flush(self) -> None:
        """SGLang's flush, which needs an idle scheduler."""
        self.tree.reset()
        self.allocator.clear()

    # --- a forward ---

    def forward(self, batch: list[tuple[Request, int]], *, slots: bool = True, prefill: bool = True) -> None:
        announced, rows = [], []
        for request, count in batch:
            if slots:
                self._slots(request, count)
            start, end = request.computed, request.computed + count
            one = RequestRows(request.req_pool_idx, request.rid, start, end, prefill)
            if prefill and 0 < start == request.cache_protected_len:
                window = request.tokens[start : start + min(count, PAGE)]
                tails = self.tree.tails_after(request.last_node)
                one = RequestRows(one.request, one.owner, start, end, prefill, window, tails)
            announced.append(one)
            rows.append((request, start, end))
        self._begin(announced)
        self._rows(rows)
        for request, _, end in rows:
            request.computed = end

    def _begin(self, batch: list[RequestRows]) -> None:
        if self.store.follows_decode or any(one.prefill for one in batch):
            self.store.begin(batch, len(batch))
        else:
            self.store.begin([], len(batch))

    def _rows(self, rows: list[tuple[Request, int, int]], extra: int | None = None) -> None:
        if isinstance(self.store, WholePrefillStore):
            self._whole_prefill_rows(self.store, rows)
        else:
            assert isinstance(self.store, IndexStore)
            self._settled_rows(self.store, rows, extra)

    def _whole_prefill_rows(self, store: WholePrefillStore, rows: list[tuple[Request, int, int]]) -> None:
        plan = store.take([end for _, _, end in rows], [end - start for _, start, end in rows])
        self.decisions.append(plan)
        if plan is None:
            return
        ((request, start, end),) = rows
        for layer in LAYERS:
            truth = [
                shuffled(
                    selection(request.extra_key, tuple(request.tokens[: position + 1]), self.weights, layer), start, end
                )
                for position in range(start, end)
            ]
            if plan.read:
                assert store.rows(plan, layer).tolist() == truth, "a selection of another prefill was served"
                self.served["known"] += end - start
            else:
                store.write(plan, layer, torch.tensor(truth, dtype=torch.int32))
                self.served["computed"] += end - start

    def _settled_rows(self, store: IndexStore, rows: list[tuple[Request, int, int]], extra: int | None) -> None:
        assert self.settled is not None
        places = [(request, position) for request, start, end in rows for position in range(start, end)]
        index = torch.tensor([request.req_pool_idx for request, _ in places], dtype=torch.int64)
        length = torch.tensor([position + 1 for _, position in places], dtype=torch.int64)
        store.lay_out(index, length)
        margins = [1.0 if self.draw.random() < self.settled else 0.1 for _ in places]
        for layer in LAYERS:
            given = store.known_rows(layer)
            if given is None:
                continue
            for row, (request, position) in enumerate(places):
                tokens = request.tokens if extra is None else request.tokens + array("q", [extra])
                truth = selection(request.extra_key, tuple(tokens[: position + 1]), self.weights, layer)
                if given.settled[row]:
                    assert given.selection[row].tolist() == truth, "a selection of other tokens was served"
                    self.served["known"] += 1
                else:
                    given.selection[row] = torch.tensor(truth, dtype=torch.int32)
                    given.margin[row] = margins[row]
                    self.served["computed"] += 1
            store.put(layer, given)
        self.decisions.append(store._tables.table.tolist())

    def _slots(self, request: Request, count: int) -> None:
        for position in range(request.computed, request.computed + count):
            if position % PAGE == 0:
                page = self.allocator.page()
                self.table[request.req_pool_idx, position : position + PAGE] = torch.arange(
                    page * PAGE, page * PAGE + PAGE, dtype=torch.int32
                )

    # --- what must hold ---

    def check(self) -> None:
        """Invariants of the store, and SGLang's own: free + cached + held by requests is the whole pool."""
        idle = not self.running
        check(self.store, self.tree.nodes(), idle=idle)
        own = sum(-(-(request.computed - request.cache_protected_len) // PAGE) * PAGE for request in self.running)
        cached = self.tree.evictable_size() + self.tree.protected_size()
        assert self.allocator.available_size() + cached + own == KV
        state = self.store.snapshot()
        assert state["free"] + state["live"] + state["held"] == state["slots"]
        if idle:
            assert self.tree.protected_size() == 0
            assert state["live"] == state["requests"] == 0
