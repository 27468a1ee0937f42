"""Triton's compiler as the kernel files use it: decorators with a type, and the layout as compile-time constants.

Triton's own decorator is untyped, and its kernels can be neither called nor typed as Python functions.
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from sgl_indexcache.kernels import layout

Decorator = Callable[[Callable[..., Any]], Any]

jit: Decorator = triton.jit
jit_with: Callable[..., Decorator] = triton.jit
"""jit with options, such as `do_not_specialize=[names of arguments]`."""

PAGE = tl.constexpr(layout.PAGE)
SCALE_BYTES = tl.constexpr(layout.SCALE_BYTES)
FP8_MAX = tl.constexpr(layout.FP8_MAX)
