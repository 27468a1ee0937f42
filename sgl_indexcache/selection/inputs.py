"""What a Full layer of a forward selects by, and how its selections are written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Queries = Callable[[slice | torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Index queries `[R, H, D]` and head gates `[R, H]` of R rows of a forward: a slice, or int64 `[R]`.

On the CPU they are projected when they are asked for: for all rows of a long prefill they would be the largest tensor
of the forward."""

Form = Literal["slots", "offsets", "positions"]
"""KV slots, offsets into the flattened KV of a forward's requests, or positions of the request."""


class IndexerTerms(Protocol):
    """What is read of SGLang's `Indexer` module (layers/attention/dsa/dsa_indexer.py:309)."""

    num_init_tokens: int
    """first and"""
    num_local_tokens: int
    """last positions that every selection holds"""


@dataclass(frozen=True, slots=True)
class TensorQueries:
    """`Queries` that are projected already: [T, H, D], fp8 on CUDA, and gates float32 [T, H], of T rows."""

    queries: torch.Tensor
    gates: torch.Tensor

    def __call__(self, rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(rows, slice):
            return self.queries[rows], self.gates[rows]
        # torch does not gather fp8 itself.
        gathered = self.queries.view(torch.uint8).index_select(0, rows).view(self.queries.dtype)
        return gathered, self.gates.index_select(0, rows)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a Full layer of a forward with T rows of B requests selects by.

    queries     of its rows
    index_k     the layer's index keys, this forward's among them. CUDA: uint8 [KV pages, 64 * (D + 4)], 64 fp8 keys,
                then 64 fp32 scales; CPU: [slots, D] in the model's dtype
    page_table  int32 [B, P], KV pages of the requests
    request     int32 [T], line of the page table
    lengths     int32 [T], keys that each row sees: its position + 1
    initial     first and
    local       last positions that every selection holds
    """

    queries: Queries
    index_k: torch.Tensor
    page_table: torch.Tensor
    request: torch.Tensor
    lengths: torch.Tensor
    initial: int = 0
    local: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How the selections of a forward are written.

    page_table  int32 [B, P], KV pages of the requests
    offsets     int32 [T], where the flattened KV of each row's request begins; for "offsets" alone
    """

    form: Form
    page_table: torch.Tensor
    offsets: torch.Tensor | None = None
