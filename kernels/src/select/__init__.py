"""Top-k selection with deterministic ties."""

from sgl_indexcache.kernels.select.reference import select

__all__ = ["select"]
