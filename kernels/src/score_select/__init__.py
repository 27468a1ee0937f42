"""A Full layer's selection on CUDA: scores of page-packed keys, then the k best, within a bound of memory."""

from sgl_indexcache.kernels.score_select.api import score_select

__all__ = ["score_select"]
