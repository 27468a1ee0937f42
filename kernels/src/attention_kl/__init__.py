"""Divergence of an indexer from the attention of the layers that it serves."""

from sgl_indexcache.kernels.attention_kl.api import Attention, Guess, attention_kl
from sgl_indexcache.kernels.attention_kl.reference import (
    attention_distribution,
    divergence,
    divergence_to_mean,
    entropy,
    mass_on_best,
    mean_of_divergences,
)

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
