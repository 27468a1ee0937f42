"""What a stand-in has in place of a function."""

from collections.abc import Callable
from typing import Any, NoReturn

from sgl_indexcache.stand_ins import PACKAGES


def missing(module: str, name: str) -> Callable[..., NoReturn]:
    """Return a function that raises RuntimeError with the package to install."""
    package = PACKAGES[module.partition(".")[0]]

    def stand_in(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{module}.{name} is a stand-in without an implementation; install {package}")

    stand_in.__name__ = stand_in.__qualname__ = name
    stand_in.__module__ = module
    return stand_in


def missing_attribute(module: str, name: str) -> Callable[..., NoReturn]:
    """A module's `__getattr__`: each public name is a missing function, for modules used as `F.name()`."""
    if name.startswith("_"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return missing(module, name)
