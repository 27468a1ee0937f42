"""Stand-in for `torchvision.ops.boxes`."""

from sgl_indexcache.stand_ins.missing import missing

batched_nms = missing(__name__, "batched_nms")
