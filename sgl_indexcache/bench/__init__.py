"""Measuring rooms: consumers of a selection, four systems end to end, and what single parts cost.

Contract: beside our own rooms it runs SGLang's kernels and engine, as the rival. Everything is written as JSON first;
tables and plots are drawn from it, also later and elsewhere. `kernels/benchmarks` measures kernels alone.

    `sgl-indexcache bench kernels`   kernels.py over consumers.py and the kernels' own benchmarks
    `sgl-indexcache bench serve`     serve.py runs each of systems.py in a process (child.py: measure.py, profile.py)
                                     over a workload.py; report.py merges them, plot.py draws
    `python -m`                      consumers.py, cpu_prefill.py, radix_overhead.py, telemetry_overhead.py
"""
