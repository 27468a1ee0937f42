"""The seams of CUDA, in the order of installation."""

from sgl_indexcache.sglang_port.base import Seam
from sgl_indexcache.sglang_port.seams.cuda import capture, indexer, topk

SEAMS: tuple[Seam, ...] = (
    capture.SEAM,
    indexer.SEAM,
    topk.SEAM,
)
