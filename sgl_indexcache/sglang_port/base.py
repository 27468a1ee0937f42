"""What a seam is: the places in SGLang it holds on to, how it is put in force, and the proof that it is."""

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sgl_indexcache.errors import UserError

Device = Literal["cpu", "cuda"]
Kind = Literal["before", "after", "around", "replace"]

BACKEND_NAME = "indexcache"
"""The attention backend's name on the command line, the same on every device."""


class SeamError(UserError):
    """A seam that the settings need is not in force; the process must not serve."""


class BrokenSeamError(Exception):
    """Raised by a proof: what is wrong, without the name of the seam."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One use of SGLang's HookRegistry (sglang/srt/plugins/hook_registry.py).

    `parameters` are the names that the target must take, in this order, for `function` to be right about it;
    None for a class or a Triton kernel that is replaced as a whole.
    """

    target: str
    kind: Kind
    function: Any
    parameters: tuple[str, ...] | None = None

    def register(self) -> None:
        """Put the hook on SGLang's list; SGLang applies it when all plugins have run."""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(self.target, self.function, HookType(self.kind))

    def prove(self) -> None:
        """Raise BrokenSeamError unless the target exists, has the expected parameters and runs our function."""
        try:
            current = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError) as error:
            raise BrokenSeamError(f"{self.target} does not exist ({error})") from error
        if not _runs(current, self.function):
            raise BrokenSeamError(f"{self.target} does not run the hook")
        if self.parameters is not None:
            names = tuple(inspect.signature(current).parameters)
            if names[: len(self.parameters)] != self.parameters:
                raise BrokenSeamError(
                    f"{self.target} takes ({', '.join(names)}), expected ({', '.join(self.parameters)})"
                )


def _runs(current: Any, function: Any) -> bool:
    """Whether calling `current` reaches `function`: itself, or a closure in its chain of wrappers."""
    link = current
    while link is not None:
        if link is function:
            return True
        cells = getattr(link, "__closure__", None) or ()
        if any(cell.cell_contents is function for cell in cells):
            return True
        link = getattr(link, "__wrapped__", None) or getattr(link, "__func__", None)
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Seam:
    """A named piece of work that SGLang does differently while the plugin is in force.

    register  official registrations that are no hooks (names, factories)
    probe     a functional proof beyond the hooks: returns what it proved, raises BrokenSeamError
    """

    name: str
    purpose: str
    devices: frozenset[Device]
    hooks: tuple[Hook, ...] = ()
    register: Callable[[], None] = _nothing
    probe: Callable[[], str] | None = None

    def install(self) -> None:
        """Register everything; nothing is in force before SGLang applies its hooks."""
        self.register()
        for hook in self.hooks:
            hook.register()

    def prove(self) -> str:
        """What is in force; raises BrokenSeamError."""
        for hook in self.hooks:
            hook.prove()
        return self.probe() if self.probe else self.purpose


BOTH: frozenset[Device] = frozenset({"cpu", "cuda"})
CPU: frozenset[Device] = frozenset({"cpu"})
CUDA: frozenset[Device] = frozenset({"cuda"})
