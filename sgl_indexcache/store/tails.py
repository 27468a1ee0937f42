"""Tail snapshots as the tree holds them: which tokens a slot's rows belong to, and where in a node they hang."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

PrefillKey = tuple[int, int, Hashable]
"""A prefill that was alone in its forward: first row, end, and what else decided how it was run."""


@dataclass(slots=True, eq=False)
class Tail:
    """Snapshot of the rows that follow a cached prefix of whole pages.

    slot       where the pool keeps the selections; row i belongs to the i-th token after the prefix
    tokens     the tokens of the rows, 1 to `window` of them
    namespace  SGLang's extra key (cache salt, adapter) of the prefix
    generation of the store when it was kept; the store forgets everything when weights or the pattern change
    key       the prefill that computed the rows alone in its forward and from the prefix's end on, or None: the
               same prefill again gives the same bits
    used       the store's counter when it was last kept or read
    holder, offset  where it hangs: the prefix ends `offset` tokens into the node
    """

    slot: int
    tokens: Sequence[int]
    namespace: Hashable
    generation: int
    key: PrefillKey | None
    used: int
    holder: "Tails"
    offset: int


@dataclass(slots=True, eq=False)
class Tails:
    """The tails of one tree node, by the offset in the node at which their prefix ends (1 to the node's length)."""

    by_offset: dict[int, list[Tail]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_offset)

    def __iter__(self) -> Iterator[Tail]:
        for tails in self.by_offset.values():
            yield from tails

    def at(self, offset: int) -> Sequence[Tail]:
        """The tails whose prefix ends here; the caller does not change the list."""
        return self.by_offset.get(offset, ())

    def add(self, tail: Tail) -> None:
        """Hang a tail at its offset."""
        tail.holder = self
        self.by_offset.setdefault(tail.offset, []).append(tail)

    def remove(self, tail: Tail) -> None:
        """Take a tail away; it must hang here."""
        tails = self.by_offset[tail.offset]
        tails.remove(tail)
        if not tails:
            del self.by_offset[tail.offset]

    def split(self, length: int) -> "Tails":
        """Part with the tails of the node's first `length` tokens, which become a node of their own before it."""
        head = Tails()
        everything, self.by_offset = list(self), {}
        for tail in everything:
            if tail.offset <= length:
                head.add(tail)
            else:
                tail.offset -= length
                self.add(tail)
        return head


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning of two token sequences."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
