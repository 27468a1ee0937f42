"""Lightning-indexer scores: one number for each query and key."""

from sgl_indexcache.kernels.score.reference import score

__all__ = ["score"]
