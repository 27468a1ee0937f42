"""Lightning-indexer scores: one number for each query and key.

score         of keys one after the other: reference.py, cpu.py
score_paged   of the keys of each row's request, in pages: reference.py, cuda.py
"""
