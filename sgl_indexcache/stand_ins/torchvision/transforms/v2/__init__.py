"""Stand-in for `torchvision.transforms.v2`."""

from collections.abc import Callable
from typing import NoReturn

from torchvision.transforms.functional import InterpolationMode as InterpolationMode
from torchvision.transforms.v2 import functional as functional

from sgl_indexcache.stand_ins.missing import missing_attribute


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return missing_attribute(__name__, name)
