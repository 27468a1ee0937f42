"""Stand-in for `torchvision.ops`."""

from torchvision.ops import boxes as boxes

from sgl_indexcache.stand_ins.missing import missing

masks_to_boxes = missing(__name__, "masks_to_boxes")
