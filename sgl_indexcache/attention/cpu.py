"""The CPU backend: DSA attention in torch under the unmodified SGLang engine.

Registered under the same name as the CUDA backend, so that a pattern, a test or a bug report means the same
on both. fp32 and bf16 models; index keys are kept per token in the model's dtype (sglang_port/seams/cpu/pool.py).
"""

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.linear import ReplicatedLinear
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

from sgl_indexcache.attention.gather import attend
from sgl_indexcache.indexer.cpu.exact import Selector
from sgl_indexcache.indexer.cpu.project import project_key, project_query
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.selection import Inputs, KnownRows, Queries, Rows, Terms
from sgl_indexcache.store import IndexStore
from sgl_indexcache.telemetry.work import IndexerWork

if TYPE_CHECKING:
    from sglang.srt.layers.attention.dsa.dsa_indexer import Indexer
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner


class IndexCacheCpuBackend(AttentionBackend):
    """Absorbed MLA over the latent cache, restricted to each row's selection.

    pattern  which layers reuse a selection
    """

    def __init__(self, model_runner: "ModelRunner", scratch_bytes: int, pattern: Pattern):
        super().__init__()
        self.device = model_runner.device
        self.slot_table = model_runner.req_to_token_pool.req_to_token
        self.pool = model_runner.token_to_kv_pool
        self.scratch_bytes = scratch_bytes
        self.shared_layers = frozenset(pattern.shared_layers)
        # Set by the factory where they are on.
        self.store: IndexStore | None = None
        self.two_level: TwoLevel | None = None
        self.work = IndexerWork()
        self.kernels = {(phase, work): "torch" for phase in ("prefill", "decode") for work in ("indexer", "attention")}
        self.rows = Rows.of([], [], [], 0)
        self.keys_seen = 0
        # Of two-level scoring: KV pages of each request, requests that bring rows, and each row's request.
        self._page_table = torch.empty(0, 0, dtype=torch.int32)
        self._lines: list[int] = []
        self._line = torch.empty(0, dtype=torch.int32)
        _keep_freed_memory()

    def configure(self, pattern: Pattern) -> None:
        """Serve another pattern from the next forward on; see attention/base.py."""
        self.shared_layers = frozenset(pattern.shared_layers)
        if self.two_level is not None:
            self.two_level.configure(pattern.full_layers)

    def init_forward_metadata(self, forward_batch: "ForwardBatch") -> None:
        """Lay the rows of this forward out, once for all layers."""
        requests = forward_batch.req_pool_indices.tolist()
        lengths = forward_batch.seq_lens.tolist()
        if forward_batch.forward_mode.is_decode_or_idle():
            new = [1] * len(requests)
        else:
            new = list(forward_batch.extend_seq_lens_cpu)
        self.rows = Rows.of(requests, lengths, new, total=int(forward_batch.positions.shape[0]))
        self.keys_seen = int(self.rows.length.sum())
        if self.store is not None:
            self.store.lay_out(self.rows.request, self.rows.length)
        if self.two_level is not None:
            self._lay_out_pages(self.two_level, forward_batch, requests, lengths, new)

    def _lay_out_pages(
        self,
        two_level: TwoLevel,
        forward_batch: "ForwardBatch",
        requests: list[int],
        lengths: list[int],
        new: list[int],
    ) -> None:
        two_level.clear()
        rows = sum(new)
        two_level.records.take(self.rows.length[:rows] - 1, forward_batch.out_cache_loc[:rows])
        # Slots of a page are consecutive, and positions of a page begin at multiples of it.
        self._page_table = self.slot_table[requests, : max(lengths, default=0) : PAGE].int() // PAGE
        self._lines = [line for line, count in enumerate(new) if count]
        self._line = torch.repeat_interleave(torch.tensor(new, dtype=torch.int64)).int()
        two_level.begin(lengths, new, self._page_table, is_request=bool(forward_batch.rids))

    def support_triton(self) -> bool:
        """Send SGLang's own batch preparation down its torch paths."""
        return False

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        return 1

    def select(
        self,
        indexer: "Indexer",
        x: torch.Tensor,
        q_lora: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: "ForwardBatch",
        layer_id: int,
        return_indices: bool,
    ) -> torch.Tensor | None:
        """Run a Full layer's indexer: store its index keys and return the selection int32 `[T, topk]`.

        Arguments as SGLang's `Indexer.forward`: x `[T, hidden]`, q_lora `[T, q_lora_rank]`, positions `[T]`.
        """
        key = project_key(indexer, x, positions)
        self.pool.set_index_k(layer_id, forward_batch.out_cache_loc, key)
        if not return_indices:
            return None

        def queries(rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return project_query(indexer, x[rows], q_lora[rows], positions[rows], is_plain_matrix)

        known = None if self.store is None else self.store.known_rows(layer_id)
        index_k = self.pool.index_k(layer_id)
        if self.two_level is None:
            selector = Selector(
                indexer.index_topk, indexer.num_init_tokens, indexer.num_local_tokens, self.scratch_bytes
            )
            selection = selector(queries, index_k, self.slot_table, self.rows, known)
        else:
            selection = self._select_by_pages(self.two_level, layer_id, indexer, queries, index_k, known)
        reused = keys_reused = 0
        if self.store is not None and known is not None:
            self.store.put(layer_id, known)
            reused, keys_reused = int(known.settled.sum()), int(self.rows.length[known.settled].sum())
            self.work.reused(reused, keys_reused)
        self.work.full(len(self.rows.length) - reused, self.keys_seen - keys_reused)
        return selection

    def _select_by_pages(
        self,
        two_level: TwoLevel,
        layer_id: int,
        indexer: "Indexer",
        queries: Queries,
        index_k: torch.Tensor,
        known: KnownRows | None,
    ) -> torch.Tensor:
        """Two-level scoring's selection; requests of which all rows are known keep theirs.

        How firmly a list decides is not measured: margins stay 0, so that only the very same forward takes selections.
        """
        rows = self.rows
        settled: set[int] = set()
        if known is None:
            out = torch.full((len(rows.length), indexer.index_topk), -1, dtype=torch.int32)
        else:
            out = known.selection
            for line, span in zip(self._lines, rows.spans, strict=True):
                of_span = known.settled[span.first : span.first + span.rows]
                if bool(of_span.all()):
                    settled.add(line)
                else:
                    of_span.fill_(False)
        inputs = Inputs(
            queries,
            index_k,
            self._page_table,
            self._line,
            rows.length[: len(self._line)].int(),
            indexer.num_init_tokens,
            indexer.num_local_tokens,
        )
        two_level.select(layer_id, inputs, Terms("positions", self._page_table), out, settled)
        return out

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: "RadixAttention",
        forward_batch: "ForwardBatch",
        save_kv_cache: bool = True,
        topk_indices: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Attention output `[T, heads * value_dim]`; `topk_indices` is the selection in force here.

        Raises RuntimeError when a layer has no selection: attending densely instead would hide a broken
        carry from a Full to a Shared layer.
        """
        if save_kv_cache and k is not None:
            self.pool.set_kv_buffer(layer, forward_batch.out_cache_loc, k, v)
        if topk_indices is None:
            raise RuntimeError(f"layer {layer.layer_id} was given no selection")
        if layer.layer_id in self.shared_layers:
            self.work.shared(len(self.rows.length), self.keys_seen)
        out = attend(
            q.view(-1, layer.tp_q_head_num, layer.head_dim),
            self.pool.get_key_buffer(layer.layer_id)[:, 0],
            topk_indices,
            self.slot_table,
            self.rows,
            layer.v_head_dim,
            layer.scaling,
            self.scratch_bytes,
        )
        return out.view(-1, layer.tp_q_head_num * layer.v_head_dim)

    forward_decode = forward_extend


def is_plain_matrix(linear: Any) -> bool:
    """Whether SGLang's `linear` does nothing but multiply by its `weight [out, in]`."""
    # Exact types: a subclass, or an adapter's wrapper, may do more.
    return (
        type(linear) is ReplicatedLinear
        and type(linear.quant_method) is UnquantizedLinearMethod
        and linear.bias is None
        and not getattr(linear, "use_intel_amx_backend", False)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
    )


def _keep_freed_memory() -> None:
    """Have the C library keep the memory of freed temporaries, instead of asking the system for fresh pages each time.

    glibc raises its limits for that to the size of the largest block of up to 32 MiB that was freed; whether a
    process has freed such a one by chance decided 4 % of a long prefill. No other allocator minds.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
