"""Stand-in for `torchvision.transforms.functional`."""

from collections.abc import Callable
from enum import Enum
from typing import NoReturn

from sgl_indexcache.stand_ins.missing import missing_attribute


class InterpolationMode(Enum):
    """The modes and values of the real one: transformers builds tables of them while it is imported."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return missing_attribute(__name__, name)
