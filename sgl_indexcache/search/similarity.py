"""`--scorer similarity`: choose Full layers by how alike selections are; the paper's negative result.

No loss is looked at: a dynamic programme finds, for every budget, the pattern whose Shared layers are the
most similar to their producers. It is here to be compared with.
"""

import numpy as np

from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.overlap.measure import between_layers, sparse_rows
from sgl_indexcache.pattern import Pattern

ROWS = 256
"""Queries of every sequence that are compared."""


def similarity_of(model: ModelFacts, sequences: Sequences, engine: Engine) -> np.ndarray:
    """How alike the selections of every two layers are, all layers Full: float64 `[L, L]`."""
    engine.switch(Pattern("F" * model.layers))
    matrices = []
    for ids in sequences.ids:
        selections = engine.selections(ids, model.layers, model.top_k)
        matrices.append(between_layers(selections, sparse_rows(len(ids), model.top_k, ROWS)))
    return np.array(np.mean(matrices, axis=0))


def most_similar(similarity: np.ndarray, keep: int) -> list[Pattern]:
    """The best pattern of every budget from all Full down to `keep` Full layers, in falling order of Full layers.

    Each has the highest sum of similarity(producer(l), l) over its Shared layers. Ties keep the lower layers Full.

    similarity  float `[L, L]`, entry (p, l) how alike the selections of layers p and l are, in 0..1
    keep        fewest Full layers
    """
    layers = len(similarity)
    # gain[p][e]: layers p+1..e-1 use p's selection.
    gain = np.zeros((layers, layers + 1))
    for producer in range(layers):
        gain[producer, producer + 1 :] = np.concatenate([[0.0], np.cumsum(similarity[producer, producer + 1 :])])
    # best[n][p]: n Full layers from p on, p being the first of them; following[n][p]: the next one.
    best = np.full((layers + 1, layers), -np.inf)
    following = np.zeros((layers + 1, layers), dtype=int)
    best[1] = gain[:, layers]
    for count in range(2, layers + 1):
        for producer in range(layers - 1):
            offers = gain[producer, producer + 1 : layers] + best[count - 1, producer + 1 :]
            chosen = int(np.argmax(offers))
            best[count, producer] = offers[chosen]
            following[count, producer] = producer + 1 + chosen
    return [_pattern(layers, count, following) for count in range(layers, keep - 1, -1)]


def _pattern(layers: int, count: int, following: np.ndarray) -> Pattern:
    letters, at = ["S"] * layers, 0
    letters[0] = "F"
    for left in range(count, 1, -1):
        at = int(following[left, at])
        letters[at] = "F"
    return Pattern("".join(letters))
