"""Training-free pattern search on a live engine (arXiv 2603.12201, Algorithm 1), and the quality of patterns.

Contract: talks to engines over HTTP and to disk; imports neither SGLang nor torch. Where a class goes:

    wire.py        a pattern as the numbers that switch a running engine      engine.py   one engine's HTTP client
    fleet.py       start or connect engines, give them their pattern back     model.py    what config.json says
    sequences.py   token sequences from JSONL, tokenised once                 budget.py   --keep
    greedy.py      Algorithm 1, full and blockwise    similarity.py uniform.py            the two comparisons
    evaluate.py    patterns to losses, in parallel, through the journal       journal.py  what survives a kill
    progress.py    the bar                            report.py plot.py       what a search leaves behind
    kept_server.py a server that ends with us         needles.py  prompts with known answers
    run.py         one search from beginning to end
    quality.py     loss, needles and recall of chosen patterns                table.py    its table and plot
"""
