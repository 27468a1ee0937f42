"""Tail snapshots in a CUDA forward: a prefill that was run before takes its selections from the store.

`prepare` settles on the scheduler's thread, before the launch, whether a forward reads or writes; from then on there
are only copies on the forward's stream between the pool, in pinned host memory, and the layers' selections. Nothing
waits for the device, nothing on the host is read after the launch, and no captured graph comes by here.

That the same prefill takes the same branches: SGLang skips the scores (dsa_indexer.py, `_should_skip_logits_
computation`; dense MHA prefill in dsa_backend.py, `set_dsa_prefill_impl`) by the longest request of the forward, and
chooses kernels by the number of rows, which is all one prefill's own where it is alone. Where a forward does not come
by in every Full layer nevertheless, the store keeps nothing of it (WholePrefillStore.write).
"""

from collections.abc import Sequence

import torch

from sgl_indexcache.indexer.forms import from_positions, note_pages, to_positions
from sgl_indexcache.selection import Terms
from sgl_indexcache.store import CopyPlan, WholePrefillStore


class Snapshots:
    """What the forward in preparation reads or writes; `pages` KV pages there are at most, on `device`."""

    def __init__(self, store: WholePrefillStore, pages: int, device: torch.device | str) -> None:
        self.store = store
        self._plan: CopyPlan | None = None
        self._noted = False
        self._page_of = torch.zeros(pages, dtype=torch.int32, device=device)

    def prepare(self, lengths: Sequence[int], new: Sequence[int]) -> None:
        """Settle it for the prefill of requests with `lengths` tokens, `new` of them rows."""
        self._plan, self._noted = self.store.take(lengths, new), False

    def clear(self) -> None:
        """The forward in preparation neither reads nor writes."""
        self._plan = None

    @property
    def reads(self) -> bool:
        """Whether all rows of the forward are known."""
        return self._plan is not None and self._plan.read

    @property
    def writes(self) -> bool:
        """Whether the selections of the forward are written down."""
        return self._plan is not None and not self._plan.read

    def read(self, layer: int, terms: Terms, out: torch.Tensor) -> torch.Tensor:
        """Fill `out` int32 [T, topk] with a Full layer's selection, -1 in rows of padding, and return it."""
        assert self._plan is not None
        known = self.store.rows(self._plan, layer)
        rows = known.shape[0]
        out[:rows].copy_(from_positions(known.to(out.device, non_blocking=True), terms))
        out[rows:].fill_(-1)
        return out

    def write(self, layer: int, terms: Terms, selection: torch.Tensor) -> None:
        """Write a Full layer's selection int32 [T, topk] down; rows of padding stand last and are left out."""
        assert self._plan is not None
        if terms.form == "slots" and not self._noted:
            note_pages(self._page_of, terms.page_table)
            self._noted = True
        rows = selection[: self._plan.end - self._plan.start]
        self.store.write(self._plan, layer, to_positions(rows, terms, self._page_of))
