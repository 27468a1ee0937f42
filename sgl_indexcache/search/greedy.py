"""Algorithm 1 of the paper: flip the layer whose flip costs least, again and again.

Pure: what a pattern's loss is comes from `evaluate`, which takes the candidates of one step together, so that
they can be measured side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.errors import SearchError

Evaluate = Callable[[Sequence[Pattern]], list[float]]
"""Losses (mean next-token NLL in nats) of patterns, in their order."""


@dataclass(frozen=True, slots=True)
class Step:
    """The pattern of one budget.

    pattern     in force after the step
    loss        of the pattern
    flipped     the layer made Shared in this step; None for a pattern that no flip led to
    candidates  loss by layer of every flip that was compared in this step
    """

    pattern: Pattern
    loss: float
    flipped: int | None = None
    candidates: dict[int, float] | None = None

    @property
    def full(self) -> int:
        """Number of Full layers, the budget."""
        return len(self.pattern.full_layers)

    def described(self) -> dict[str, Any]:
        """For reports."""
        entry: dict[str, Any] = {"full_layers": self.full, "pattern": str(self.pattern), "loss": self.loss}
        if self.flipped is not None:
            entry["flipped"] = self.flipped
        if self.candidates is not None:
            entry["candidates"] = {str(layer): loss for layer, loss in self.candidates.items()}
        return entry


def flip(pattern: Pattern, layer: int) -> Pattern:
    """`pattern` with `layer` made Shared."""
    letters = str(pattern)
    return Pattern(letters[:layer] + "S" + letters[layer + 1 :])


def greedy(layers: int, keep: int, evaluate: Evaluate) -> list[Step]:
    """The full sweep: from all Full down to `keep` Full layers, one flip a step; layer 0 stays Full.

    Ties go to the lower layer. The steps begin with the all-Full pattern.
    """
    full = Pattern("F" * layers)
    start = Step(full, evaluate([full])[0])
    return [start, *_descend(full, range(1, layers), layers - keep, evaluate)]


@dataclass(frozen=True, slots=True)
class BlockSearch:
    """Blockwise mode's result: the merged steps, and what each block found by itself."""

    steps: list[Step]
    blocks: list[list[Step]]


def blockwise(layers: int, keep: int, blocks: int, evaluate: Evaluate) -> BlockSearch:
    """Search consecutive blocks one by one, the rest of the model all Full: about `blocks` times fewer forwards.

    The first layer of each block stays Full. The blocks' orders of flips are then merged: the next flip is
    the one that raised the loss least inside its block (ties: the lower layer), and every merged pattern is
    measured once.

    Raises:
        SearchError: more blocks than Full layers to keep.
    """
    if not 1 <= blocks <= layers:
        raise SearchError(f"{blocks} blocks are outside 1..{layers}, the model's number of layers")
    if keep < blocks:
        raise SearchError(
            f"{blocks} blocks keep their first layers, so {keep} Full layers cannot be reached: use fewer blocks"
        )
    full = Pattern("F" * layers)
    start = Step(full, evaluate([full])[0])
    searches = []
    for first, end in _blocks(layers, blocks):
        flips = min(end - first - 1, layers - keep)
        searches.append(_descend(full, range(first + 1, end), flips, evaluate))
    steps = [start]
    for layer in _merge(start.loss, searches, layers - keep):
        pattern = flip(steps[-1].pattern, layer)
        steps.append(Step(pattern, evaluate([pattern])[0], flipped=layer))
    return BlockSearch(steps, searches)


def _blocks(layers: int, blocks: int) -> Iterator[tuple[int, int]]:
    """First and past-the-last layer of every block; sizes differ by one at most."""
    return pairwise(layers * number // blocks for number in range(blocks + 1))


def _descend(pattern: Pattern, free: range, flips: int, evaluate: Evaluate) -> list[Step]:
    """Flip `flips` of the layers in `free`, the cheapest first."""
    steps: list[Step] = []
    left = list(free)
    for _ in range(flips):
        losses = dict(zip(left, evaluate([flip(pattern, layer) for layer in left]), strict=True))
        chosen = min(left, key=lambda layer: (losses[layer], layer))
        pattern = flip(pattern, chosen)
        left.remove(chosen)
        steps.append(Step(pattern, losses[chosen], chosen, losses))
    return steps


def _merge(start: float, blocks: list[list[Step]], flips: int) -> list[int]:
    """The layers to flip, in order: always the block whose own next flip raised its loss least."""
    order: list[int] = []
    taken = [0] * len(blocks)
    for _ in range(flips):
        offers = []
        for number, steps in enumerate(blocks):
            at = taken[number]
            if at < len(steps):
                before = steps[at - 1].loss if at else start
                layer = steps[at].flipped
                assert layer is not None
                offers.append((steps[at].loss - before, layer, number))
        _, layer, number = min(offers)
        order.append(layer)
        taken[number] += 1
    return order


def evaluations(layers: int, keep: int, blocks: int | None = None) -> int:
    """Number of losses that a search asks for."""
    if blocks is None:
        return 1 + sum(layers - 1 - step for step in range(layers - keep))
    total = 1 + layers - keep
    for first, end in _blocks(layers, blocks):
        size = end - first
        total += sum(size - 1 - step for step in range(min(size - 1, layers - keep)))
    return total
