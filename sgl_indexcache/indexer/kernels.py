"""What two-level scoring runs on a device: the operations of kernels/src/shortlist, and exact selection beside them."""

from typing import Protocol

import torch

from sgl_indexcache.selection import Inputs, Terms


class TwoLevelKernels(Protocol):
    """One set a device: cpu/two_level.py, cuda/two_level.py. Either is the other's oracle.

    group     rows, at positions that are equal up to the remainder by it, that share the list of the first of them
    min_rows  rows of a request in a forward from which on they have lists
    max_rows  rows that are listed and selected at a time, a multiple of `group`
    """

    group: int
    min_rows: int
    max_rows: int

    def select(self, inputs: Inputs, terms: Terms, out: torch.Tensor, *, rows: slice, max_length: int) -> None:
        """Write the exact selections of `rows` into those rows of `out` int32 [>= T, topk], as `terms` say.

        max_length  bound of their lengths
        """

    def summarise(
        self,
        index_k: torch.Tensor,
        page_table: torch.Tensor,
        summaries: torch.Tensor,
        has_summary: torch.Tensor,
        n: int,
    ) -> torch.Tensor:
        """Summaries of the first n pages of one request, page_table int32 [P], for `list_pages`.

        A page without one is summarised: `summaries` uint8 [KV pages, D + 4] and `has_summary` uint8 [KV pages] are
        written.
        """

    def list_pages(
        self,
        queries: torch.Tensor,
        gates: torch.Tensor,
        summaries: torch.Tensor,
        complete: torch.Tensor,
        n: int,
        *,
        max_complete: int,
        window: int,
        out: torch.Tensor,
    ) -> None:
        """Write the pages that the first rows of G groups list into out int32 [G, n], ascending.

        queries, gates  [G, H, D] and [G, H]; summaries are those of `summarise`
        complete        int32 [G], pages before each group's own, more than n and at most `max_complete`
        window          pages just before the own one that are always listed, as is the first page
        """

    def select_listed(
        self,
        queries: torch.Tensor,
        gates: torch.Tensor,
        index_k: torch.Tensor,
        pages: torch.Tensor,
        group: torch.Tensor,
        lengths: torch.Tensor,
        k: int,
        *,
        names: torch.Tensor,
        initial: int,
        local: int,
        out: torch.Tensor,
    ) -> None:
        """Write the selections of R rows among the keys of their groups' pages into out int32 [R, k].

        pages   int32 [G, n + 1], KV pages, the own one last; group int32 [R], ascending
        lengths int32 [R], keys of these pages that each row sees
        names   int32 [G, n + 1], what the pages are called in the result
        """

    def judge(
        self,
        exact: torch.Tensor,
        listed: torch.Tensor,
        group: torch.Tensor,
        page_table: torch.Tensor,
        lengths: torch.Tensor,
        guard: torch.Tensor,
        counts: torch.Tensor,
        *,
        counted: bool,
    ) -> None:
        """Add what `listed` int32 [G, n + 1] holds of S exact selections int32 [S, k] to the records.

        group, lengths int32 [S] of each; page_table int32 [P] of their request; guard int32 [KV pages, 2] by the page
        of each; counts int64 [>= 2], samples and positions, if `counted`.
        """

    def verdicts(
        self,
        guard: torch.Tensor,
        page_table: torch.Tensor,
        requests: torch.Tensor,
        complete: torch.Tensor,
        need: int,
        floor: float,
        out: torch.Tensor,
    ) -> None:
        """Write into out int64 [L, R] whether a context is to be scored exactly (1) in each layer.

        guard     int32 [L, KV pages, 2]; page_table int32 [B, P]; requests int32 [R] lines of it
        complete  int32 [R], pages that speak for each; the latest samples count that make up `need` positions, and
                  fewer say nothing
        """
