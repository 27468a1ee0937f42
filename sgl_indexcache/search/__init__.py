"""Training-free pattern search on a live engine: Algorithm 1 of arXiv 2603.12201.

Contract: asks engines through `live`; imports neither SGLang nor torch. Where a class goes:

    greedy.py    Algorithm 1, full and blockwise       similarity.py uniform.py   the two comparisons
    budget.py    --keep                                evaluate.py   patterns to losses, side by side
    journal.py   what survives a kill                  run.py        one search from beginning to end
    report.py    what it leaves behind: search.json, indexcache.yaml; plot.py draws it
"""
