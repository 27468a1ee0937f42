"""Stand-in for `torchvision.transforms`. Its classes are only made when images are processed."""

from collections.abc import Callable
from typing import NoReturn

from torchvision.transforms import functional as functional
from torchvision.transforms import v2 as v2
from torchvision.transforms.functional import InterpolationMode as InterpolationMode

from sgl_indexcache.stand_ins.missing import missing_attribute


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return missing_attribute(__name__, name)
