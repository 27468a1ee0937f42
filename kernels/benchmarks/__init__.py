"""Times of our kernels beside their rivals; what measures whole rooms stands in `sgl_indexcache.bench`.

Contract: imports kernels alone, and SGLang's where it is the rival. Each is a module with a command line of its own,
`python -m sgl_indexcache.kernels.benchmarks.NAME --out FILE`, checks every kernel before it is timed, and reports no
time of a wrong one. Without CUDA there is nothing to measure.
"""
