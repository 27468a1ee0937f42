"""Divergence of an indexer from the attention of the layers that it serves: the loss of distillation.

The formulae stand in reference.py and serve on any device; sliced.py takes the loss a slice of queries at a time;
cuda.py is attention's distribution in Triton.
"""

from sgl_indexcache.kernels.attention_kl.reference import (
    attention_distribution,
    divergence,
    divergence_to_mean,
    entropy,
    mass_on_best,
    mean_of_divergences,
)
from sgl_indexcache.kernels.attention_kl.sliced import Attention, Guess, attention_kl

__all__ = [
    "Attention",
    "Guess",
    "attention_distribution",
    "attention_kl",
    "divergence",
    "divergence_to_mean",
    "entropy",
    "mass_on_best",
    "mean_of_divergences",
]
