"""Benchmarks: kernels against their rivals, and four systems end to end.

Everything is written as JSON first; tables and plots are drawn from it, also later and elsewhere.
"""
