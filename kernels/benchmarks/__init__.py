"""Times of our kernels beside their rivals; what measures whole rooms stands in `sgl_indexcache.bench`.

Contract: imports kernels and results alone, and SGLang's where it is the rival. Each has the name of its op and is a
module with a command line of its own, `python -m sgl_indexcache.kernels.benchmarks.OP --out FILE`; it checks every
kernel before it is timed, and reports no time of a wrong one. Without CUDA there is nothing to measure.

    score_select, shortlist, shortlist_decode   beside exact scoring and SGLang: problem.py, run.py
    score_causal, attention_kl                  beside torch: beside_torch.py
"""
