"""Problems for the indexer kernels, the same for the interpreter and for a GPU."""

from dataclasses import dataclass

import torch

from sgl_indexcache.kernels.layout import pack

PAGE, DIM = 64, 128
UNUSED = 2**30
"""A page id that no kernel may follow."""


@dataclass
class Problem:
    """Arguments of score_select; `pages` of a request beyond its longest row are UNUSED."""

    q: torch.Tensor
    weights: torch.Tensor
    index_k: torch.Tensor
    page_table: torch.Tensor
    request: torch.Tensor
    lengths: torch.Tensor

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.weights, self.index_k, self.page_table, self.request, self.lengths

    @property
    def longest(self) -> int:
        return int(self.lengths.max()) if len(self.lengths) else 0


def problem(
    rows: list[list[int]],
    heads: int = 32,
    *,
    seed: int = 0,
    equal: bool = False,
    shared_pages: int = 0,
    device: str = "cpu",
) -> Problem:
    """Requests in order, each given by the lengths of its rows; pages shuffled, unused ones and tails poisoned.

    equal         small whole numbers throughout, so that scores tie and float32 is exact
    shared_pages  leading pages that all requests have in common
    """
    make = torch.Generator().manual_seed(seed)
    lengths = [length for one in rows for length in one]
    request = [nth for nth, one in enumerate(rows) for _ in one]
    needed = [-(-max(one, default=0) // PAGE) for one in rows]
    total = sum(needed) + shared_pages + 7
    order = torch.randperm(total, generator=make).tolist()
    common = [order.pop() for _ in range(shared_pages)]
    table = torch.full((max(1, len(rows)), max([*needed, 1])), UNUSED, dtype=torch.int32)
    scales = torch.full((total, PAGE), float("nan"))
    # 0x7f is NaN in e4m3.
    keys = torch.full((total, PAGE, DIM), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)
    for nth, count in enumerate(needed):
        own = (common + [order.pop() for _ in range(count - len(common))])[:count]
        table[nth, :count] = torch.tensor(own, dtype=torch.int32)
        for page, number in enumerate(own):
            used = min(PAGE, max(rows[nth]) - page * PAGE)
            if equal:
                fresh = torch.randint(0, 2, (PAGE, DIM), generator=make).float()
                scale = torch.ones(PAGE)
            else:
                fresh = torch.randn(PAGE, DIM, generator=make)
                scale = torch.rand(PAGE, generator=make) + 0.5
            if number in common and not scales[number].isnan().any():
                continue
            # A page that several requests share is whole.
            used = PAGE if number in common else used
            keys[number, :used] = fresh[:used].to(torch.float8_e4m3fn)
            scales[number, :used] = scale[:used]
    if equal:
        q = torch.randint(0, 2, (len(lengths), heads, DIM), generator=make).float()
        q[:, :, 4:] = 0
        weights = torch.ones(len(lengths), heads)
        weights[:, 1:] = 0
    else:
        q = torch.randn(len(lengths), heads, DIM, generator=make)
        weights = torch.randn(len(lengths), heads, generator=make) / heads
    return Problem(
        q.to(torch.float8_e4m3fn).to(device),
        weights.to(device),
        pack(keys, scales).to(device),
        table.to(device),
        torch.tensor(request, dtype=torch.int32, device=device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )
