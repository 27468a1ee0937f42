"""Triton's interpreter with NumPy 2.4, and quicker; importing it proves that kernels are interpreted."""

from typing import Any

from triton import knobs
from triton.runtime import interpreter

assert knobs.runtime.interpret

patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor(tensor: Any, scope: Any) -> None:
    """NumPy 2.4 makes no int of an array of one element, which is what the interpreter's scalars are."""
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_tensor
patched_modules: set[str] = set()


def _call(self: Any, *given: Any, **named: Any) -> Any:
    """A function that a kernel calls, with its module's language patched once, not for every call: half the time."""
    if self.fn.__module__ not in patched_modules:
        interpreter._patch_lang(self.fn)
        patched_modules.add(self.fn.__module__)
    return self.rewrite()(*given, **named)


interpreter.InterpretedFunction.__call__ = _call
