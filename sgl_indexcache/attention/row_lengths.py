"""How many keys each row of a forward sees, on the host, without waiting for the device."""

from collections.abc import Sequence

import torch


class RowLengths:
    """Visible keys of every row, int32 `[T]` on the CPU, a row's own token included."""

    def __init__(self, lengths: torch.Tensor) -> None:
        self._lengths = lengths
        self.longest = int(lengths.max()) if len(lengths) else 0

    @classmethod
    def decode(cls, lengths: torch.Tensor) -> "RowLengths":
        """One row a request of `lengths [B]` tokens; on the CPU."""
        return cls(lengths.to(torch.int32))

    @classmethod
    def extend(cls, lengths: torch.Tensor, new: Sequence[int]) -> "RowLengths":
        """The last `new[i]` rows of every request of `lengths [B]` tokens, requests one after another."""
        rows = [
            torch.arange(length - count + 1, length + 1, dtype=torch.int32)
            for length, count in zip(lengths.tolist(), new, strict=True)
        ]
        return cls(torch.cat(rows) if rows else torch.empty(0, dtype=torch.int32))

    def __len__(self) -> int:
        return self._lengths.shape[0]

    def begin_page(self, page: int) -> bool:
        """Whether some row's own token is the first of a page of `page` tokens."""
        return bool(((self._lengths - 1) % page == 0).any())

    def clipped(self, limit: int) -> torch.Tensor:
        """Keys that each row selects when it may select `limit`; at least 1, which padding rows count for."""
        return self._lengths.clamp(1, limit)

    def of(self, rows: int) -> torch.Tensor:
        """Keys that each of the first `rows` rows sees."""
        return self._lengths[:rows]

    def keys(self, rows: int) -> int:
        """Keys that the first `rows` rows see in all."""
        return int(self._lengths[:rows].sum())
