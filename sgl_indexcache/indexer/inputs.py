"""What a Full layer selects by on CUDA, in SGLang's terms."""

from dataclasses import dataclass
from typing import Protocol

import torch


class IndexerTerms(Protocol):
    """What this room needs of SGLang's `Indexer` module (layers/attention/dsa/dsa_indexer.py:309)."""

    num_init_tokens: int
    """first and"""
    num_local_tokens: int
    """last positions that every selection holds"""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a Full layer of the forward selects by; arguments as of cuda.select_rows, gates [T, H]."""

    indexer: IndexerTerms
    queries: torch.Tensor
    gates: torch.Tensor
    index_k: torch.Tensor
    page_table: torch.Tensor
    request: torch.Tensor
    lengths: torch.Tensor
