"""Absorbed multi-head latent attention over a selection."""

from sgl_indexcache.kernels.sparse_mla.reference import sparse_mla

__all__ = ["sparse_mla"]
