"""Stand-in for `torchvision.transforms.v2.functional`."""

from collections.abc import Callable
from typing import NoReturn

from torchvision.transforms.functional import InterpolationMode as InterpolationMode

from sgl_indexcache.stand_ins.missing import missing_attribute


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return missing_attribute(__name__, name)
