"""FlashInfer as the consumer of a selection: its paged MLA kernel with pages of one slot and one row a query.

Scheduled once a forward: what the schedule depends on, the number of selected keys of every row, is the same in
all layers. The selection itself is the page list, read where the indexer wrote it, so a Full layer replaces it by
writing and a Shared layer by nothing at all. One schedule buffer serves every captured graph, because the kernel's
launch depends on the number of heads alone (flashinfer's attention/scheduler.cuh, MLAPlan).

Needs bf16 queries and latent cache; see flashinfer_mla_backend.py in SGLang for its dense use of the same kernel.
"""

from typing import Any

import torch

# The scheduler's work list has 16384 entries (scheduler.cuh, max_total_num_works), one a row at the least.
MOST_ROWS = 16000
# Partial outputs of split rows: 2 * SMs * 64 rows * 512 values * 2 bytes is 17.3 MB on 132 SMs.
WORKSPACE_BYTES = 32 << 20


class FlashInferMla:
    """Attention over selections for one phase of a forward (prefill or decode).

    The schedule lives in one device buffer that captured graphs read; `plan` rewrites it on the current stream,
    after everything launched before. It waits for the device only when the schedule before it has not left the
    pinned buffer yet.

    width       k, the columns of a selection
    latent_dim  width of the compressed cache (512) and of an output row; rope_dim (64) follows it in a cache row
    workspace   uint8 buffer for partial outputs; phases on one stream may share it
    """

    def __init__(self, heads: int, width: int, latent_dim: int, rope_dim: int, workspace: torch.Tensor) -> None:
        from flashinfer.mla import BatchMLAPagedAttentionWrapper

        self._wrapper: Any = BatchMLAPagedAttentionWrapper(workspace, backend="fa3")
        self._heads, self._width = heads, width
        self._latent_dim, self._rope_dim = latent_dim, rope_dim
        self._planned: torch.Tensor | None = None
        self._sent: torch.cuda.Event | None = None

    @property
    def rows(self) -> int:
        """Rows of the schedule in force."""
        return 0 if self._planned is None else self._planned.shape[0]

    def plan(self, lengths: torch.Tensor) -> None:
        """Schedule rows with `lengths` int32 `[T]` selected keys each, on the CPU, 1 to MOST_ROWS rows.

        Does nothing when the schedule in force is for the same lengths: in decode over long contexts that is
        every step, since each row has k keys.
        """
        if self._planned is not None and torch.equal(self._planned, lengths):
            return
        if self._sent is None:
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._first_plan(lengths)
        else:
            self._sent.synchronize()
            self._wrapper._plan_info = self._wrapper._cached_module.plan(
                self._wrapper._float_workspace_buffer,
                self._wrapper._int_workspace_buffer,
                self._wrapper._pin_memory_int_workspace_buffer,
                *self._layout(lengths),
                self._heads,
                self._latent_dim,
                False,
            )
        self._sent.record()
        self._planned = lengths.clone()

    def _layout(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where each row's query and its page list begin, and its keys: all int32 on the CPU.

        Rows of a selection are `width` apart whatever their length, so the page list needs no packing.
        """
        rows = torch.arange(lengths.shape[0] + 1, dtype=torch.int32)
        return rows, rows * self._width, lengths

    def _first_plan(self, lengths: torch.Tensor) -> None:
        """The wrapper's own plan: it also builds or loads the kernel."""
        queries, pages, keys = self._layout(lengths)
        self._wrapper.plan(
            queries,
            pages,
            torch.zeros(1, dtype=torch.int32),
            keys,
            self._heads,
            self._latent_dim,
            self._rope_dim,
            1,
            False,
            1.0,
            torch.bfloat16,
            torch.bfloat16,
        )

    def run(
        self,
        q_latent: torch.Tensor,
        q_rope: torch.Tensor,
        cache: torch.Tensor,
        slots: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Output bf16 `[T, H, latent_dim]` of the planned rows; rows behind them are zero.

        q_latent [T, H, latent_dim], q_rope [T, H, rope_dim]; cache [slots, 1, latent_dim + rope_dim]; slots int32
        [T, width] contiguous, valid entries first. Graph capturable.
        """
        total, rows = q_latent.shape[0], self.rows
        if slots.shape[1] != self._width or not slots.is_contiguous():
            raise ValueError(f"a selection of {self._width} contiguous columns was planned, not {tuple(slots.shape)}")
        out = torch.empty(q_latent.shape, dtype=q_latent.dtype, device=q_latent.device)
        if total > rows:
            out[rows:].zero_()
        self._wrapper._kv_indices_buf = slots.view(-1)
        self._wrapper._sm_scale = scale
        self._wrapper.run(
            q_latent[:rows],
            q_rope[:rows],
            cache[:, :, : self._latent_dim],
            cache[:, :, self._latent_dim :],
            out=out[:rows],
        )
        return out
