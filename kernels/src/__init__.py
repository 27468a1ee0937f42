"""Arithmetic by operation: one folder an op, one file a form of it, one signature a name.

    reference.py   the formula in plain torch, shapes on top; naive, right in float64; the other forms are tested by it
    cpu.py         tuned for CPUs                cuda.py     for CUDA: checks of layouts, cuts, launches
    kernel.py      the Triton kernels that cuda.py launches
    layout.py      pages of index keys           precision.py  accumulation dtypes        jit.py  Triton, typed

Forms of an op take the same arguments in the same order, so that one stands for the other; signatures are therefore
repeated on purpose. What `summarise` hands to `list_pages` is a form's own: packed bytes, or means in float on the
CPU. A tuned form may take more by name: memory to use, cuts to measure.
Where an op has no tuned form for a device, its reference serves. Only cuda.py and kernel files import triton, so an
op's package is imported anywhere.
"""
