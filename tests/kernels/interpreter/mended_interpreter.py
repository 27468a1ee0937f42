"""Triton's interpreter with NumPy 2.4, and quicker; importing it proves that kernels are interpreted."""

from typing import Any

import numpy as np
import torch
import triton.language as tl
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


convert_float = interpreter._convert_float


def _convert_float(values: Any, source: Any, target: Any, rounding: Any) -> Any:
    """float32 to fp8 e4m3 as the device does it, to the nearest even; the interpreter cuts off, and loses carries."""
    if source != tl.float32 or target != tl.float8e4nv:
        return convert_float(values, source, target, rounding)
    narrow = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float8_e4m3fn)
    return narrow.view(torch.uint8).numpy().reshape(values.shape)


interpreter._convert_float = _convert_float
