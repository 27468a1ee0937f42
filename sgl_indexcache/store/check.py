"""Invariants of the store, checked from the outside. Each has a test that breaks it and sees it named."""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch

from sgl_indexcache.store.slots import SnapshotSlots
from sgl_indexcache.store.tails import Tails


class InvariantError(AssertionError):
    """The store contradicts itself; the text begins with the name of the invariant."""


class TreeNode(NamedTuple):
    """A tree node that holds tails: its tokens' number, where it ends, its extra key and whether its KV is alive."""

    tails: Tails
    length: int
    end: int
    space: Hashable
    alive: bool


def check(store: SnapshotSlots, nodes: Iterable[TreeNode], *, idle: bool = False) -> None:
    """Raise InvariantError unless everything adds up; `nodes` are all tree nodes that hold tails.

    conservation  every slot is free, written, or kept, and nothing is counted twice
    lifetime      every kept tail hangs on one living node, at the end of a page of it
    references    a request in flight holds its own slots; none at `idle`
    positions     kept selections name positions up to their row's own, each once, ascending, then -1; in any order
                  where the store keeps the order in which they came
    namespace     a tail's extra key is its node's
    generation    nothing kept is from before the last time that everything was forgotten
    """
    nodes = list(nodes)
    _conservation(store)
    _lifetime(store, nodes)
    _references(store, idle=idle)
    for node in nodes:
        for tail in node.tails:
            if tail.namespace != node.space:
                raise InvariantError(f"namespace: slot {tail.slot} is of another extra key than its node")
            if tail.generation != store.generation:
                raise InvariantError(f"generation: slot {tail.slot} is of generation {tail.generation}")
            _positions(store, tail.slot, node.end - node.length + tail.offset, len(tail.tokens))


def _conservation(store: SnapshotSlots) -> None:
    slots = sorted([*store._free, *(store._writers | set(store._kept))])
    if slots != list(range(store.pool.slots)):
        raise InvariantError("conservation: free, written and kept slots are not all slots, each once")
    if set(store._lru) != set(store._kept) - store._writers:
        raise InvariantError("conservation: the slots that may be given up are not those kept and not written")


def _lifetime(store: SnapshotSlots, nodes: list[TreeNode]) -> None:
    hanging = [tail for node in nodes for tail in node.tails]
    if sorted(tail.slot for tail in hanging) != sorted(store._kept):
        raise InvariantError("lifetime: the tails on the tree's nodes are not those that the store keeps")
    for node in nodes:
        for offset, tails in node.tails.by_offset.items():
            if not node.alive:
                raise InvariantError("lifetime: a tail hangs on a node whose KV is gone")
            if not 0 < offset <= node.length or offset % store.window:
                raise InvariantError(f"lifetime: offset {offset} is no end of a page of its node")
            for tail in tails:
                if tail.offset != offset or tail.holder is not node.tails or store._kept[tail.slot] is not tail:
                    raise InvariantError(f"lifetime: slot {tail.slot} does not hang where it says")
                if not 0 < len(tail.tokens) <= store.window:
                    raise InvariantError(f"lifetime: slot {tail.slot} has {len(tail.tokens)} tokens")


def _references(store: SnapshotSlots, *, idle: bool) -> None:
    held = [live.slot for live in store._live.values() if live.slot is not None]
    held += [live.previous[1] for live in store._live.values() if live.previous is not None]
    if sorted(held) != sorted(store._writers):
        raise InvariantError("references: the slots written are not those of the requests in flight, each once")
    if idle and store._live:
        raise InvariantError(f"references: {len(store._live)} requests hold slots at idle")


def _positions(store: SnapshotSlots, slot: int, first: int, rows: int) -> None:
    picks = store.pool.selections[:, slot, :rows]
    if not store.ascending:
        last = torch.iinfo(picks.dtype).max
        picks = torch.where(picks < 0, last, picks).sort(dim=-1).values
        picks = picks.masked_fill(picks == last, -1)
    own = torch.arange(first, first + rows).view(1, rows, 1)
    real = picks >= 0
    left, right = picks[..., :-1], picks[..., 1:]
    good = (picks <= own) & (picks >= -1)
    ordered = torch.where(right >= 0, left < right, torch.ones_like(real[..., 1:])) & (real[..., :-1] | ~real[..., 1:])
    if not (bool(good.all()) and bool(ordered.all())):
        raise InvariantError(f"positions: slot {slot} selects what a row cannot see, or something twice")
