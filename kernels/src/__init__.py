"""Kernels by operation: reference.py holds the formula, kernel.py the Triton code, api.py the choice."""
