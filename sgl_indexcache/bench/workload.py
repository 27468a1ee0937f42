"""What is measured of a system, the same for all of them, token for token."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes in tokens, counts of samples.

    lengths     cold prefills, and the cached prefixes of warm turns and repeats
    turns       new tokens of a warm turn
    batches     decode batches that share a prefix of `prefix` tokens, each with 64 tokens of its own
    colds       cold prefills of every length, of different prompts
    samples     warm turns and repeats of every size, and timed decodes of every batch
    steps       decode steps in a timed decode
    probe       length of the prompt whose next-token distribution is compared between systems
    vocabulary  token ids are drawn from 10 up to this
    """

    lengths: tuple[int, ...]
    turns: tuple[int, ...]
    batches: tuple[int, ...]
    prefix: int
    colds: int
    samples: int
    steps: int
    probe: int
    vocabulary: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Workload":
        """The reverse of `described`."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        return cls(**values)

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def context(self) -> int:
        """The longest sequence that occurs, in whole pages."""
        longest = max(
            max((*self.lengths, 0)) + max((*self.turns, 0)),
            self.prefix + 64 + self.steps if self.batches else 0,
            self.probe,
        )
        return (longest + 16 + 63) // 64 * 64

    def tokens(self, count: int, *key: int) -> list[int]:
        """Random token ids that depend on `key` alone."""
        rng = random.Random(repr(key))
        return [rng.randrange(10, self.vocabulary) for _ in range(count)]


DECODE_OWN_TOKENS = 64
COLD, WARM, DECODE, PROBE, WARMUP, PROFILE = range(6)
"""First part of the key of prompts, so that no two kinds share a beginning by chance."""
