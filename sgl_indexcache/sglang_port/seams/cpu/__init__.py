"""What SGLang needs where there is no CUDA: the seams of the CPU, in the order of installation."""

from sgl_indexcache.sglang_port.base import Seam
from sgl_indexcache.sglang_port.seams.cpu import allocator, capture, defaults, device, indexer, pool, rope

SEAMS: tuple[Seam, ...] = (
    device.SEAM,
    defaults.SEAM,
    pool.SEAM,
    indexer.SEAM,
    rope.SEAM,
    allocator.SEAM,
    capture.SEAM,
)
